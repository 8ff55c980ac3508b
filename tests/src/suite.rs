//! The runner of `tests/regress` and `tests/isolation`: Postgres's own programs against a throwaway server.
