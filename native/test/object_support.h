/*
 * What the tests of shared memory over parts of regions have in common: regions over stores of one byte each, by which a page tells who filled it, and a run of all tests
 * once more as on a kernel that cannot note writes. Included once a program.
 */
#ifndef PF_TEST_OBJECT_SUPPORT_H
#define PF_TEST_OBJECT_SUPPORT_H

#include "support.h"

typedef struct {
  pf_region_t *region;
  uint8_t *bytes; /* of the store */
} shown_t;

/* A region whose store is `pages` pages of the system, full of `byte`. */
static inline shown_t show(pf_backend_t backend, size_t pages, uint8_t byte, pf_region_options_t options) {
  void *bytes;
  must(pf_mem_reserve(pages * PAGE, "test store", &bytes) == 0, "a store");
  memset(bytes, byte, pages * PAGE);
  pf_source_t source = {.kind = PF_SOURCE_MEMORY, .fd = -1, .bytes = bytes};
  return (shown_t){.region = open_region(backend, source, pages * PAGE, options), .bytes = bytes};
}

static inline void hide(shown_t shown, size_t pages) {
  EXPECT(close_region(shown.region));
  pf_mem_unmap(shown.bytes, pages * PAGE);
}

static inline pf_object_t *make(size_t pages) {
  pf_object_t *object = NULL;
  must(pf_object_create(pages * PAGE, &object) == 0, "an object");
  return object;
}

static inline int patch(pf_region_t *region, uint64_t page, pf_object_t *object) {
  uint64_t len = pf_object_length(object), size = pf_page_size(region);
  sigset_t before;
  pf_mask_signals(&before);
  int err = pf_region_patch(region, page, (len + size - 1) / size, object, 0);
  pf_restore_signals(&before);
  return err;
}

static inline void unpatch(pf_region_t *region) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_region_release(region, 0, region->page_count);
  pf_region_unpatch(region);
  pf_restore_signals(&before);
}

static inline void count_pages(void *context, uint64_t first, uint64_t end) { *(uint64_t *)context += end - first; }

static inline uint64_t dirty_pages(pf_region_t *region) {
  uint64_t count = 0;
  sigset_t before;
  pf_mask_signals(&before);
  EXPECT_EQ(pf_region_dirty(region, 0, region->page_count, count_pages, &count), 0);
  pf_restore_signals(&before);
  return count;
}

UNWATCHED static void put(pf_region_t *region, uint64_t offset, uint8_t byte) { *(volatile uint8_t *)(region->base + offset) = byte; }

static _Atomic int job_over;
static inline void job_done(pf_job_t *job) {
  (void)job;
  atomic_store(&job_over, 1);
}

static inline pf_code_t flush(pf_region_t *region) {
  pf_job_t job = {.region = region, .first = 0, .end = region->page_count, .kind = PF_JOB_FLUSH, .done = job_done};
  atomic_store(&job_over, 0);
  must(pf_loader_submit(&job) == 0, "a flush");
  while (!atomic_load(&job_over)) {
    pf_sleep_until(pf_now_ns() + 50000);
  }
  return job.why.code;
}

typedef struct {
  pf_region_t *region;
  uint64_t first, pages, seed;
  uint8_t least, most; /* what may be seen */
  _Atomic int *stop;
  uint64_t wrong, touches;
} walker_t;

static inline void *walk(void *data) {
  walker_t *walker = data;
  while (!atomic_load(walker->stop)) {
    uint64_t offset = (walker->first + random_next(&walker->seed) % walker->pages) * PAGE + random_next(&walker->seed) % PAGE;
    uint8_t seen = touch(walker->region, offset);
    walker->wrong += seen < walker->least || seen > walker->most;
    walker->touches++;
  }
  return NULL;
}

/* --- which -------------------------------------------------------------------------------------------------------------------------- */

/* Features are looked for once a process: the same on a kernel that cannot note writes. */
static inline void with_less(char **arguments) {
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    setenv("PAGEFAULT_WITHOUT", "wp_async", 1);
    execl("/proc/self/exe", arguments[0], "less", (char *)NULL);
    _exit(127);
  }
  int status = 0;
  must(pid > 0 && waitpid(pid, &status, 0) == pid, "a child");
  tests_failed += !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

static bool less;

static inline void test_all(const char *sentence, void (*body)(pf_backend_t)) {
  if (less) {
    test_on(PF_BACKEND_SIGNAL, sentence, body);
  } else {
    test_each(sentence, body);
  }
}

/* Runs them all, and in a process of its own once more with less. The exit code. */
static inline int run_all(int count, char **arguments, void (*all)(void)) {
  less = count == 2;
  all();
  if (less) {
    return tests_failed == 0 ? 0 : 1;
  }
  with_less(arguments);
  return summary();
}

#endif
