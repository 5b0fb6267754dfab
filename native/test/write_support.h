/*
 * What the tests of writing share: each way of tracking in a process of its own, stores that can be written, raw writes, flushes, what is dirty.
 *
 * A test is run as `TEST MODE`, with MODE async (the kernel notes writes), fault (PAGEFAULT_WITHOUT=wp_async: the first write is a SIGBUS), memfd (the same) or mprotect (a SIGSEGV);
 * without MODE it runs itself once for each that works here.
 */
#ifndef PF_TEST_WRITE_SUPPORT_H
#define PF_TEST_WRITE_SUPPORT_H

#include "support.h"
#include "uapi.h"

#include <sched.h>

static pf_backend_t the_backend;
static pf_track_t the_track; /* of a region whose store has no onWrite */

/* --- raw and checked writes --------------------------------------------------------------------------------------------------- */

UNWATCHED static void poke_address(uint8_t *addr, uint8_t value) { *(volatile uint8_t *)addr = value; }
static inline void poke(const pf_region_t *region, uint64_t offset, uint8_t value) {
  TOUCHING();
  poke_address(region->base + offset, value);
  TOUCHED();
}

/* PF_OK, or why not. */
static inline pf_code_t copy_in(pf_region_t *region, uint64_t offset, const uint8_t *from, size_t len) {
  uint64_t page;
  pf_why_t why = {0};
  sigset_t before;
  pf_mask_signals(&before);
  bool written = pf_region_copy_in(region, offset, from, len, &page, &why);
  pf_restore_signals(&before);
  return written ? PF_OK : why.code;
}

/* --- what is dirty ---------------------------------------------------------------------------------------------------------------- */

typedef struct {
  uint64_t pages, runs, last_end;
  uint64_t bits; /* of the first 64 pages */
  bool ordered;
} dirty_t;

static inline void note_dirty(void *context, uint64_t first, uint64_t end) {
  dirty_t *dirty = context;
  dirty->ordered = dirty->ordered && end > first && (dirty->runs == 0 || first > dirty->last_end);
  dirty->runs++;
  dirty->pages += end - first;
  dirty->last_end = end;
  for (uint64_t page = first; page < end && page < 64; page++) {
    dirty->bits |= 1ULL << page;
  }
}

static inline dirty_t dirty_in(pf_region_t *region, uint64_t first, uint64_t end) {
  dirty_t dirty = {.ordered = true};
  sigset_t before;
  pf_mask_signals(&before);
  EXPECT_EQ(pf_region_dirty(region, first, end, note_dirty, &dirty), 0);
  pf_restore_signals(&before);
  EXPECT(dirty.ordered); /* ascending, and neighbours are one run */
  return dirty;
}

static inline uint64_t dirty_bits(pf_region_t *region) { return dirty_in(region, 0, region->page_count).bits; }

/* --- flushes, and the like, with signals masked as the binding masks them ------------------------------------------------------------ */

typedef struct {
  pf_job_t job;
  _Atomic int done;
} flushing_t;

static inline void on_flush_done(pf_job_t *job) { atomic_store(&((flushing_t *)job)->done, 1); }

static inline void begin_flush(flushing_t *flush, pf_region_t *region, uint64_t first, uint64_t end) {
  *flush = (flushing_t){.job = {.region = region, .first = first, .end = end, .kind = PF_JOB_FLUSH, .done = on_flush_done}};
  must(pf_loader_submit(&flush->job) == 0, "a flush");
}

static inline pf_code_t end_flush(flushing_t *flush) {
  while (!atomic_load(&flush->done)) {
    pf_sleep_until(pf_now_ns() + 50000);
  }
  return flush->job.why.code;
}

static inline pf_why_t flush_why(pf_region_t *region, uint64_t first, uint64_t end) {
  flushing_t flush;
  begin_flush(&flush, region, first, end);
  end_flush(&flush);
  return flush.job.why;
}

static inline pf_code_t flush_pages(pf_region_t *region, uint64_t first, uint64_t end) { return flush_why(region, first, end).code; }
static inline pf_code_t flush_all(pf_region_t *region) { return flush_pages(region, 0, region->page_count); }

static inline bool discard(pf_region_t *region, uint64_t first, uint64_t end) {
  sigset_t before;
  pf_mask_signals(&before);
  bool fine = pf_region_discard(region, first, end);
  pf_restore_signals(&before);
  return fine;
}

static inline bool invalidate(pf_region_t *region, uint64_t first, uint64_t end) {
  sigset_t before;
  pf_mask_signals(&before);
  bool fine = pf_region_invalidate(region, first, end);
  pf_restore_signals(&before);
  return fine;
}

static inline void reset_detection(pf_region_t *region, uint64_t first, uint64_t end) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_region_reset_write_detection(region, first, end);
  pf_restore_signals(&before);
}

/* Closes pages and keeps them, as eviction does: PRESENT → STAGED. True when it is. */
static inline bool stage_page(pf_region_t *region, uint64_t page) {
  uint64_t one = page;
  uint8_t seen = atomic_load(&region->states[page]);
  bool staged = false;
  sigset_t before;
  pf_mask_signals(&before);
  if ((seen & PF_STATE) == PF_PRESENT && !(seen & PF_PINNED) &&
      atomic_compare_exchange_strong(&region->states[page], &seen, (uint8_t)((seen & ~PF_STATE) | PF_EVICTING))) {
    staged = pf_pages_close(region, &one, 1) == 1;
    if (staged) {
      atomic_fetch_sub(&region->counters.resident, pf_page_size(region));
      pf_budget_staged(region, (int64_t)pf_page_size(region));
      pf_pages_keep_staged(region, &one, 1);
    } else {
      pf_pages_return(region, &one, 1);
    }
  }
  pf_restore_signals(&before);
  return staged;
}

/* --- a file that can be looked at --------------------------------------------------------------------------------------------------------- */

/* A file of the pattern, unlinked; *fd is the test's own descriptor. */
static inline pf_source_t writable_file(uint64_t len, int *fd) {
  char path[64];
  make_path(path);
  write_file(path, 0, len);
  pf_source_t source = {.kind = PF_SOURCE_FILE, .check = true, .fd = open(path, O_RDWR | O_CLOEXEC), .path = strdup(path)};
  *fd = open(path, O_RDWR | O_CLOEXEC);
  unlink(path);
  must(source.fd >= 0 && *fd >= 0 && source.path != NULL && pf_source_identify(&source) == 0, "a file");
  return source;
}

static inline int stored_byte(int fd, uint64_t offset) {
  uint8_t byte = 0;
  return syscall(SYS_pread64, fd, &byte, 1, (off_t)offset) == 1 ? byte : -1;
}

static inline uint64_t file_length(int fd) {
  struct stat now;
  must(fstat(fd, &now) == 0, "fstat");
  return (uint64_t)now.st_size;
}

/* --- a store in C that is written by its pager -------------------------------------------------------------------------------------------- */

#define WRITE_STORE_MAX ((size_t)1 << 20)

typedef struct {
  test_store_t store; /* .data points back */
  pthread_mutex_t lock; /* of the bytes, for a test that looks at them while they may be written */
  uint8_t *bytes;
  uint64_t len;
  _Atomic uint64_t asked[PF_ASK_SYNC + 1], answered[PF_ASK_SYNC + 1];
  _Atomic int fail[PF_ASK_SYNC + 1];     /* so many fail, -1: all; by the code in `with` */
  _Atomic int pass[PF_ASK_SYNC + 1];     /* so many pass before */
  _Atomic int with;                      /* pf_code_t */
  _Atomic int silent[PF_ASK_SYNC + 1];   /* kept, and answered by nobody */
  _Atomic uint32_t slow_ms[PF_ASK_SYNC + 1];
  _Atomic int kill_at[PF_ASK_SYNC + 1];  /* the pager dies of this order */
  _Atomic uint64_t lasts[2];             /* offset and length of the last write or onWrite */
  pf_order_t kept[64];
  int64_t kept_fetched[64];
  _Atomic uint32_t kept_count;
  _Atomic uint32_t answer_kept;          /* 1: all that are kept are answered */
} write_store_t;

static inline void copy_stored(write_store_t *writes, uint8_t *into, const uint8_t *from, size_t len) {
  pthread_mutex_lock(&writes->lock);
  memcpy(into, from, len);
  pthread_mutex_unlock(&writes->lock);
}

/* What a write order is to write, in its buffer: a store begins by that. 0: nobody wants it any more. */
static inline int64_t fetch_order(write_store_t *writes, const pf_order_t *order) {
  store_buffer(&writes->store, order->slot);
  int64_t copied = order->access == PF_ASK_WRITE ? pf_pager_fetch(atomic_load(&writes->store.pager), order->slot) : -1;
  EXPECT(copied == (int64_t)order->length || copied == -1);
  return copied > 0 ? copied : 0;
}

static inline void answer_order(write_store_t *writes, const pf_order_t *order, int64_t fetched) {
  test_store_t *store = &writes->store;
  pf_pager_t *pager = atomic_load(&store->pager);
  uint8_t *bytes = store_buffer(store, order->slot);
  if (order->access <= PF_ASK_AHEAD) {
    do {
      copy_stored(writes, bytes, writes->bytes + order->offset, order->length);
    } while (pf_pager_complete(pager, order->slot, order->length) != 0);
  } else {
    if (order->access == PF_ASK_WRITE && fetched > 0) { /* whether or not anybody waits for it still */
      copy_stored(writes, writes->bytes + order->offset, bytes, (size_t)fetched);
    }
    pf_pager_complete(pager, order->slot, 0);
  }
  atomic_fetch_add(&writes->answered[order->access], 1);
}

static inline bool takes_one(_Atomic int *count) {
  int left = atomic_load(count);
  if (left > 0) {
    atomic_store(count, left - 1);
  }
  return left != 0;
}

static inline bool serve_writes(test_store_t *store, const pf_order_t *order) {
  write_store_t *writes = store->data;
  pf_pager_t *pager = atomic_load(&store->pager);
  unsigned access = order->access;
  atomic_fetch_add(&writes->asked[access], 1);
  if (access == PF_ASK_WRITE || access == PF_ASK_ON_WRITE) {
    atomic_store(&writes->lasts[0], order->offset);
    atomic_store(&writes->lasts[1], order->length);
  }
  if (atomic_load(&writes->slow_ms[access]) > 0) {
    pf_sleep_until(pf_now_ns() + atomic_load(&writes->slow_ms[access]) * MS);
  }
  if (takes_one(&writes->kill_at[access])) {
    pf_pager_kill(pager, "the lights went out");
  } else if (takes_one(&writes->silent[access])) {
    uint32_t at = atomic_load(&writes->kept_count);
    must(at < 64, "a place for an order");
    writes->kept[at] = *order;
    writes->kept_fetched[at] = fetch_order(writes, order);
    atomic_store(&writes->kept_count, at + 1);
  } else if (!takes_one(&writes->pass[access]) && takes_one(&writes->fail[access])) {
    pf_pager_fail(pager, order->slot, (pf_why_t){.code = (pf_code_t)atomic_load(&writes->with)}, "the store said no", NULL, false);
  } else {
    answer_order(writes, order, fetch_order(writes, order));
  }
  return false;
}

/* On the pager's thread, between orders. */
static inline void serve_kept(test_store_t *store) {
  write_store_t *writes = store->data;
  if (atomic_load(&writes->answer_kept) != 0) {
    for (uint32_t i = 0; i < atomic_load(&writes->kept_count); i++) {
      answer_order(writes, &writes->kept[i], writes->kept_fetched[i]);
    }
    atomic_store(&writes->kept_count, 0);
    atomic_store(&writes->answer_kept, 0);
  }
}

static inline void start_write_store(write_store_t *writes, uint64_t len) {
  void *bytes;
  must(pf_mem_reserve(len, "test store", &bytes) == 0, "memory for a store");
  pthread_mutex_init(&writes->lock, NULL);
  writes->bytes = bytes;
  writes->len = len;
  fill_pattern(writes->bytes, 0, len);
  if (atomic_load(&writes->with) == 0) {
    atomic_store(&writes->with, PF_E_STORE);
  }
  writes->store.serve = serve_writes;
  writes->store.between = serve_kept;
  writes->store.data = writes;
  writes->store.buffer_len = WRITE_STORE_MAX;
  start_store(&writes->store);
}

static inline void stop_write_store(write_store_t *writes) {
  stop_store(&writes->store);
  pf_mem_unmap(writes->bytes, writes->len);
}

/* --- the modes --------------------------------------------------------------------------------------------------------------------------- */

static const struct {
  const char *name, *without;
  pf_backend_t backend;
  pf_track_t track;
} modes[] = {
    {"async", "", PF_BACKEND_SIGNAL, PF_TRACK_ASYNC},
    {"fault", "wp_async", PF_BACKEND_SIGNAL, PF_TRACK_FAULT},
    {"memfd", "", PF_BACKEND_MEMFD, PF_TRACK_FAULT},
    {"mprotect", "", PF_BACKEND_MPROTECT, PF_TRACK_FAULT},
    {"thread", "", PF_BACKEND_THREAD, PF_TRACK_ASYNC},
    {"thread, fault", "wp_async", PF_BACKEND_THREAD, PF_TRACK_FAULT},
};
#define MODES (sizeof modes / sizeof *modes)
#define COUNTS_FD "PF_TEST_COUNTS_FD"
#define MODE_NAME "PF_TEST_MODE" /* for the children of a mode */

static inline bool enter_mode(const char *name) {
  for (size_t i = 0; i < MODES; i++) {
    if (strcmp(modes[i].name, name) == 0) {
      the_backend = modes[i].backend;
      the_track = modes[i].track;
      return true;
    }
  }
  return false;
}

static inline const char *mode_name(void) {
  for (size_t i = 0; i < MODES; i++) {
    if (modes[i].backend == the_backend && modes[i].track == the_track) {
      return modes[i].name;
    }
  }
  return "?";
}

static inline void test_here(const char *sentence, void (*body)(void)) {
  snprintf(current_test, sizeof current_test, "%s [%s]", sentence, mode_name());
  const char *only = getenv("PF_TEST_ONLY");
  if (only != NULL && strstr(current_test, only) == NULL) {
    return;
  }
  atomic_store(&unmet, 0);
  signal(SIGALRM, on_alarm);
  alarm(patience(60));
  uint64_t started = pf_now_ns();
  body();
  alarm(0);
  if (getenv("PF_TEST_TIMES") != NULL) {
    printf("%6llu ms  %s\n", (unsigned long long)((pf_now_ns() - started) / MS), current_test);
  }
  bool fine = atomic_load(&unmet) == 0;
  tests_passed += fine;
  tests_failed += !fine;
  if (!fine) {
    printf("failed: %s\n", current_test);
  }
  fflush(stdout);
}

static inline bool mode_works(size_t mode) {
  pf_backend_t backend = modes[mode].backend;
  pf_uffd_probe_t probe;
  pf_uffd_probe(&probe);
  if (backend == PF_BACKEND_MEMFD) {
    return probe.user_mode_errno == 0 && (probe.features & PF_UFFD_FEATURE_MINOR_SHMEM);
  }
  pf_own_t which = pf_own_which(false, backend == PF_BACKEND_THREAD);
  bool tracks = modes[mode].track != PF_TRACK_ASYNC || (pf_own_uffd_start(which) == 0 && pf_own_uffd_tracks(which));
  return backend_works(backend) && tracks;
}

/* What of the kernel is used is decided once for a process, so each mode is one. */
static inline void run_mode_in_child(const char *program, size_t mode) {
  int ends[2], counts[2] = {0, 1}, status = 0;
  fflush(stdout);
  must(pipe(ends) == 0, "a pipe");
  pid_t child = fork();
  if (child == 0) {
    char number[16];
    close(ends[0]);
    snprintf(number, sizeof number, "%d", ends[1]);
    setenv("PAGEFAULT_WITHOUT", modes[mode].without, 1);
    setenv(COUNTS_FD, number, 1);
    execl("/proc/self/exe", program, modes[mode].name, (char *)NULL);
    _exit(127);
  }
  close(ends[1]);
  must(child > 0 && waitpid(child, &status, 0) == child, "a child");
  ssize_t got = read(ends[0], counts, sizeof counts);
  close(ends[0]);
  tests_passed += got == sizeof counts ? counts[0] : 0;
  tests_failed += got == sizeof counts ? counts[1] : 1;
  if (got != sizeof counts || !WIFEXITED(status)) {
    printf("failed: mode %s ended with status %x\n", modes[mode].name, status);
    tests_failed += got == sizeof counts;
  }
}

/* main() of a test of writing. `all` runs the tests of a mode; `children` are what run_child may start. */
static inline int run_modes(int count, char **arguments, void (*all)(void), void (*child)(const char *name)) {
  if (count > 3 && strcmp(arguments[1], "child") == 0) {
    must(enter_mode(getenv(MODE_NAME)), "a mode");
    child(arguments[2]);
    return 0;
  }
  if (count > 1) {
    must(enter_mode(arguments[1]), "a mode");
    setenv(MODE_NAME, arguments[1], 1);
    all();
    const char *fd = getenv(COUNTS_FD);
    const int counts[2] = {tests_passed, tests_failed};
    if (fd != NULL && write(atoi(fd), counts, sizeof counts) == sizeof counts) {
      return 0;
    }
    return summary();
  }
  for (size_t mode = 0; mode < MODES; mode++) {
    if (mode_works(mode)) {
      run_mode_in_child(arguments[0], mode);
    } else {
      tests_skipped++;
    }
  }
  return summary();
}

#endif
