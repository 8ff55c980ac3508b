/* Which branches instrumented code takes, counted in the file that FUZZ_COVERAGE names: the fuzzer reads it from another process.
   Linked into both libraries and the fuzzer by `./dev fuzz`; without the variable it does nothing. The compiler's
   -sanitizer-coverage-trace-pc-guard calls these two functions. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE 65536 /* must equal coverage::SIZE */

static uint8_t *counters;

__attribute__((visibility("hidden"))) void __sanitizer_cov_trace_pc_guard_init(uint32_t *from, uint32_t *to) {
    const char *path = getenv("FUZZ_COVERAGE");
    if (counters == NULL && path != NULL) {
        int file = open(path, O_RDWR);
        if (file >= 0) {
            void *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
            counters = map == MAP_FAILED ? NULL : map;
            close(file);
        }
    }
    /* Two libraries in one process begin at different places. */
    uint32_t number = (uint32_t)(to - from) * 2654435761u;
    for (; from < to; from++) *from = number++ % (SIZE - 1) + 1;
}

__attribute__((visibility("hidden"))) void __sanitizer_cov_trace_pc_guard(uint32_t *guard) {
    if (counters != NULL) counters[*guard]++;
}
