/*
 * What the tests of the engine share: expectations, regions over known bytes, a pager's thread, children that may die.
 * Every test is a sentence and runs on every backend that works here. A test that takes longer than the alarm says so and ends.
 *
 * Memory of a region is only read through touch() and first_difference(): sanitizers must not look at it by themselves.
 */
#ifndef PF_TEST_SUPPORT_H
#define PF_TEST_SUPPORT_H

#include "engine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* For programs that replace pread: the page cache has nothing at once, so that the service thread reads as everybody else does. */
#define NOTHING_AT_ONCE                                                                             \
  ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {          \
    (void)fd, (void)parts, (void)count, (void)offset, (void)flags;                                  \
    errno = EAGAIN;                                                                                 \
    return -1;                                                                                      \
  }

#define UNWATCHED __attribute__((unused, noinline, no_sanitize("address", "thread", "undefined")))
#define MS 1000000ULL
#define PAGE pf_os_page_size()
#define SOON (10000 * MS)    /* what ends at once does so within this, however busy the machine */
#define LONG_MS 20000         /* to wait for what must come */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOW 1 /* an instrumented build: fewer rounds */
#else
#define SLOW 0
#endif
#if defined(__SANITIZE_THREAD__)
#define TSAN 1
#else
#define TSAN 0
#endif

/* --- expectations -------------------------------------------------------------------------------------------------- */

static int tests_passed, tests_failed, tests_skipped;
static _Atomic int unmet;
static char current_test[160] = "(none)";

static inline void expect_at(bool met, int line, const char *what, long long got, long long wanted, bool compare) {
  if (met) {
    return;
  }
  if (atomic_fetch_add(&unmet, 1) < 5) {
    if (compare) {
      printf("  line %d: %s is %lld, expected %lld\n", line, what, got, wanted);
    } else {
      printf("  line %d: not so: %s\n", line, what);
    }
    fflush(stdout);
  }
}

#define EXPECT(condition) expect_at((condition), __LINE__, #condition, 0, 0, false)
#define EXPECT_EQ(got, wanted)                                                            \
  do {                                                                                    \
    long long got_ = (long long)(got), wanted_ = (long long)(wanted);                     \
    expect_at(got_ == wanted_, __LINE__, #got, got_, wanted_, true);                      \
  } while (0)

static inline void on_alarm(int number) {
  (void)number;
  static const char text[] = "  hangs: ";
  ssize_t ignored = write(STDOUT_FILENO, text, sizeof text - 1);
  ignored += write(STDOUT_FILENO, current_test, strlen(current_test));
  ignored += write(STDOUT_FILENO, "\n", 1);
  (void)ignored;
  _exit(3);
}

/* So many seconds, times PF_TEST_PATIENCE: where a machine is emulated, all takes longer. */
static inline unsigned patience(unsigned seconds) {
  const char *times = getenv("PF_TEST_PATIENCE");
  return times == NULL ? seconds : seconds * (unsigned)atoi(times);
}

static inline const char *backend_name(pf_backend_t backend) {
  static const char *const names[] = {"signal", "mprotect", "memfd", "thread"};
  return names[backend];
}

/* What a thread dies of whose page cannot be had. */
static inline int fatal_signal(pf_backend_t backend) { return backend == PF_BACKEND_MPROTECT || backend == PF_BACKEND_THREAD ? SIGSEGV : SIGBUS; }

static inline pf_backend_t backend_named(const char *name) {
  pf_backend_t backend = PF_BACKEND_SIGNAL;
  while (backend < PF_BACKEND_THREAD && strcmp(name, backend_name(backend)) != 0) {
    backend++;
  }
  return backend;
}

static inline bool backend_works(pf_backend_t backend) {
  pf_uffd_probe_t probe;
  pf_uffd_probe(&probe);
  if (backend == PF_BACKEND_MEMFD && pf_own_uffd_offers_shared() != (PF_OWN_MINOR | PF_OWN_PROTECT)) {
    return false;
  }
  bool device;
  if (backend == PF_BACKEND_THREAD && pf_own_uffd_may(true, &device) != 0) {
    return false;
  }
  return backend == PF_BACKEND_MPROTECT || probe.user_mode_errno == 0;
}

static inline void run_one(const char *sentence, const char *suffix, void (*body)(pf_backend_t), pf_backend_t backend) {
  snprintf(current_test, sizeof current_test, "%s%s", sentence, suffix);
  atomic_store(&unmet, 0);
  signal(SIGALRM, on_alarm);
  alarm(patience(60));
  uint64_t started = pf_now_ns();
  body(backend);
  alarm(0);
  if (getenv("PF_TEST_TIMES") != NULL) {
    printf("%6llu ms  %s\n", (unsigned long long)((pf_now_ns() - started) / MS), current_test);
  }
  if (atomic_load(&unmet) == 0) {
    tests_passed++;
  } else {
    tests_failed++;
    printf("failed: %s\n", current_test);
    fflush(stdout);
  }
}

static inline void test_on(pf_backend_t backend, const char *sentence, void (*body)(pf_backend_t)) {
  char suffix[24];
  snprintf(suffix, sizeof suffix, " [%s]", backend_name(backend));
  if (backend_works(backend)) {
    run_one(sentence, suffix, body, backend);
  } else {
    tests_skipped++;
  }
}

static inline void test_each(const char *sentence, void (*body)(pf_backend_t)) {
  test_on(PF_BACKEND_SIGNAL, sentence, body);
  test_on(PF_BACKEND_MPROTECT, sentence, body);
  test_on(PF_BACKEND_MEMFD, sentence, body);
  test_on(PF_BACKEND_THREAD, sentence, body);
}

static inline int summary(void) {
  printf("%d passed, %d failed", tests_passed, tests_failed);
  if (tests_skipped > 0) {
    printf(", %d skipped (no userfaultfd here)", tests_skipped);
  }
  printf("\n");
  return tests_failed == 0 ? 0 : 1;
}

static inline void must(bool ok, const char *what) {
  if (!ok) {
    printf("  cannot go on: %s (%s) in: %s\n", what, strerror(errno), current_test);
    fflush(stdout);
    _exit(2);
  }
}

/* --- known bytes ------------------------------------------------------------------------------------------------------- */

/* No two pages of a store are alike, and none of them is all zeroes. */
static inline uint8_t pattern(uint64_t offset) { return (uint8_t)(offset * 7 + (offset >> 12) * 13 + (offset >> 20) * 31 + 1); }

UNWATCHED static void fill_pattern(uint8_t *into, uint64_t offset, size_t len) {
  for (size_t i = 0; i < len; i++) {
    into[i] = pattern(offset + i);
  }
}

#if TSAN
extern char pf__told; /* own_uffd.c */
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define TOUCHING() __tsan_release(&pf__told)
#define TOUCHED() __tsan_acquire(&pf__told)
#else
#define TOUCHING() ((void)0)
#define TOUCHED() ((void)0)
#endif

/* One raw touch. */
UNWATCHED static uint8_t read_address(const uint8_t *addr) { return *(const volatile uint8_t *)addr; }
static inline uint8_t touch_address(const uint8_t *addr) {
  TOUCHING();
  uint8_t byte = read_address(addr);
  TOUCHED();
  return byte;
}
static inline uint8_t touch(const pf_region_t *region, uint64_t offset) { return touch_address(region->base + offset); }

/* The first offset in [from, end) whose byte is not `pattern(bias + offset)` below `have`, or not zero from there on; or `end`. */
UNWATCHED static uint64_t find_difference(const pf_region_t *region, uint64_t from, uint64_t end, uint64_t bias, uint64_t have) {
  const volatile uint8_t *bytes = region->base;
  for (uint64_t i = from; i < end; i++) {
    if (bytes[i] != (i < have ? pattern(bias + i) : 0)) {
      return i;
    }
  }
  return end;
}

static inline uint64_t random_next(uint64_t *seed) {
  *seed ^= *seed << 13;
  *seed ^= *seed >> 7;
  *seed ^= *seed << 17;
  return *seed;
}

static inline uint64_t first_difference(const pf_region_t *region, uint64_t from, uint64_t end, uint64_t bias, uint64_t have) {
  TOUCHING();
  uint64_t at = find_difference(region, from, end, bias, have);
  TOUCHED();
  return at;
}

/* --- sources ------------------------------------------------------------------------------------------------------------ */

static inline pf_source_t zero_source(void) { return (pf_source_t){.kind = PF_SOURCE_ZERO, .fd = -1}; }

/* Bytes of our own, freed with the region. */
static inline pf_source_t memory_source(uint64_t len) {
  pf_source_t source = {.kind = PF_SOURCE_MEMORY, .fd = -1, .owned_len = len};
  must(pf_mem_reserve(len, "test store", &source.owned) == 0, "memory for a store");
  source.bytes = source.owned;
  fill_pattern(source.owned, 0, len);
  return source;
}

static inline void make_path(char path[64]) {
  const char *folder = getenv("TMPDIR");
  static _Atomic unsigned number;
  snprintf(path, 64, "%.32s/pf-%d-%u", folder != NULL && strlen(folder) <= 32 ? folder : "/tmp", (int)getpid(), atomic_fetch_add(&number, 1));
}

static inline void write_file(const char *path, uint64_t bias, uint64_t len) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  must(fd >= 0, "a temporary file");
  static uint8_t block[65536];
  for (uint64_t at = 0; at < len;) {
    size_t part = len - at < sizeof block ? (size_t)(len - at) : sizeof block;
    fill_pattern(block, bias + at, part);
    must(write(fd, block, part) == (ssize_t)part, "a write to a temporary file");
    at += part;
  }
  close(fd);
}

/* Of a file that exists; changes are noticed. */
static inline pf_source_t file_source_at(const char *path, uint64_t offset) {
  pf_source_t source = {.kind = PF_SOURCE_FILE, .check = true, .offset = offset};
  source.fd = open(path, O_RDONLY | O_CLOEXEC);
  source.path = strdup(path);
  must(source.fd >= 0 && source.path != NULL && pf_source_identify(&source) == 0, "a file source");
  return source;
}

/* Of a file that is unlinked already. */
static inline pf_source_t file_source(uint64_t len) {
  char path[64];
  make_path(path);
  write_file(path, 0, len);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  unlink(path);
  pf_source_t source = {.kind = PF_SOURCE_FILE, .check = true, .fd = fd, .path = strdup(path)};
  must(fd >= 0 && source.path != NULL && pf_source_identify(&source) == 0, "a file source");
  return source;
}

/* --- regions --------------------------------------------------------------------------------------------------------------- */

/* Options with defaults; store_length 0: all of it. */
static inline pf_region_t *open_region(pf_backend_t backend, pf_source_t source, uint64_t byte_length, pf_region_options_t options) {
  options.backend = backend;
  options.source = source;
  options.byte_length = byte_length;
  options.store_length = options.store_length == 0 ? byte_length : options.store_length;
  options.page_size = options.page_size == 0 ? PAGE : options.page_size;
  options.timeout_ms = options.timeout_ms == 0 ? 20000 : options.timeout_ms;
  options.name = options.name == NULL ? "tested" : options.name;
  options.store_name = options.store_name == NULL ? "a test's store" : options.store_name;
  pf_region_t *region = NULL;
  const char *step = "";
  int err = pf_region_create(&options, &region, &step);
  if (err != 0) {
    printf("  pf_region_create: %s at %s\n", strerror(-err), step);
  }
  must(err == 0, "a region");
  return region;
}

#define OPTIONS(...) ((pf_region_options_t){__VA_ARGS__}) /* readahead: none */

/* Closes it and lets its memory go; true when nobody was left inside and all of it is freed. */
static inline bool close_region(pf_region_t *region) {
  uint64_t id = atomic_load(&region->id);
  unsigned before = pf_region_count();
  pf_region_close(region, true);
  pf_region_leave(region);
  pf_region_memory_gone(id);
  for (int tries = 0; pf_region_count() >= before && tries < 3000; tries++) {
    pf_sleep_until(pf_now_ns() + MS);
    pf_region_reap();
  }
  return pf_region_count() < before;
}

static inline unsigned state_of(const pf_region_t *region, uint64_t page) { return atomic_load(&region->states[page]) & PF_STATE; }

static inline uint64_t counter(const _Atomic uint64_t *value) { return atomic_load(value); }

/* One checked load. */
static inline bool ensure(pf_region_t *region, uint64_t page, uint64_t timeout_ms, bool heal, pf_why_t *why) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_wait_t wait = {.deadline_ns = pf_now_ns() + timeout_ms * MS, .heal = heal, .window = 1};
  bool there = pf_page_ensure(region, page, &wait, why);
  pf_restore_signals(&before);
  return there;
}

/* The bytes that it freed. */
static inline uint64_t release(pf_region_t *region, uint64_t first, uint64_t end) {
  sigset_t before;
  pf_mask_signals(&before);
  uint64_t freed = pf_region_release(region, first, end);
  pf_restore_signals(&before);
  return freed;
}

/* What a checked read of one byte gives, or -1 - code. */
static inline int checked_byte(pf_region_t *region, uint64_t offset) {
  uint8_t byte = 0;
  uint64_t page;
  pf_why_t why = {0};
  sigset_t before;
  pf_mask_signals(&before);
  bool read = pf_region_copy_out(region, offset, &byte, 1, &page, &why);
  pf_restore_signals(&before);
  return read ? byte : -1 - (int)why.code;
}

static inline bool wait_until(bool (*done)(void *), void *argument, uint64_t timeout_ms) {
  uint64_t deadline = pf_now_ns() + timeout_ms * MS;
  while (!done(argument)) {
    if (pf_now_ns() > deadline) {
      return false;
    }
    pf_sleep_until(pf_now_ns() + MS / 2);
  }
  return true;
}

/* --- a pager in C -------------------------------------------------------------------------------------------------------------- */

typedef struct test_store test_store_t;
struct test_store {
  /* On the pager's thread, for each order. True: it is answered with the pattern; false: the test answers it itself. */
  bool (*serve)(test_store_t *store, const pf_order_t *order);
  void *data;
  _Atomic uint64_t orders; /* taken so far */
  _Atomic uint64_t agains; /* read again because they went stale */
  _Atomic uint64_t hurried; /* slots that somebody came to wait for */
  _Atomic uint32_t stop, ready, paused;
  _Atomic(pf_pager_t *) pager;
  int event_fd;
  pthread_t thread;
  uint8_t *buffers; /* one for each slot */
  size_t buffer_len;
  void (*on_start)(test_store_t *store); /* on its thread */
  void (*between)(test_store_t *store);  /* on its thread, when no order waits, or NULL */
  void (*hurry)(test_store_t *store, uint32_t slot); /* on its thread: somebody waits for what was asked for ahead, or NULL */
};

static inline uint8_t *store_buffer(test_store_t *store, uint32_t slot) {
  pf_pager_t *pager = atomic_load(&store->pager);
  uint8_t *bytes = store->buffers + slot * store->buffer_len;
  if (pf_pager_buffer(pager, slot, store->buffer_len) == NULL) {
    pf_pager_set_buffer(pager, slot, bytes, store->buffer_len);
  }
  return bytes;
}

/* Only on the pager's thread. */
static inline void store_answer(test_store_t *store, const pf_order_t *order) {
  uint8_t *bytes = store_buffer(store, order->slot);
  for (;;) {
    fill_pattern(bytes, order->offset, order->length);
    if (pf_pager_complete(atomic_load(&store->pager), order->slot, order->length) == 0) {
      return;
    }
    atomic_fetch_add(&store->agains, 1);
  }
}

static inline void *store_loop(void *data) {
  test_store_t *store = data;
  pf_pager_t *pager = NULL;
  must(pf_pager_create(&pager, &store->event_fd) == 0, "a pager");
  atomic_store(&store->pager, pager);
  atomic_store(&store->ready, 1);
  if (store->on_start != NULL) {
    store->on_start(store);
  }
  while (!atomic_load(&store->stop)) {
    pf_order_t order;
    while (!atomic_load(&store->stop) && pf_pager_next(pager, &order)) {
      if (order.access == PF_ASK_HURRY) {
        atomic_fetch_add(&store->hurried, 1);
        if (store->hurry != NULL) {
          store->hurry(store, order.slot);
        }
        continue;
      }
      atomic_fetch_add(&store->orders, 1);
      if (store->serve == NULL || store->serve(store, &order)) {
        store_answer(store, &order);
      }
    }
    if (store->between != NULL) {
      store->between(store);
    }
    struct pollfd event = {.fd = store->event_fd, .events = POLLIN};
    poll(&event, 1, 2);
    uint64_t count;
    ssize_t ignored = read(store->event_fd, &count, sizeof count);
    (void)ignored;
    pf_pager_relax(pager);
  }
  pf_pager_kill(pager, "the test is over");
  pf_pager_closed(pager);
  return NULL;
}

static inline void start_store(test_store_t *store) {
  store->buffer_len = store->buffer_len == 0 ? PAGE : store->buffer_len;
  void *buffers;
  must(pf_mem_reserve(PF_PAGER_SLOTS * store->buffer_len, "test buffers", &buffers) == 0, "buffers");
  store->buffers = buffers;
  must(pthread_create(&store->thread, NULL, store_loop, store) == 0, "a thread");
  while (!atomic_load(&store->ready)) {
    sched_yield();
  }
}

static inline void stop_store(test_store_t *store) {
  atomic_store(&store->stop, 1);
  pthread_join(store->thread, NULL);
  pf_mem_unmap(store->buffers, PF_PAGER_SLOTS * store->buffer_len);
}

/* For `serve`: never answers. */
static inline bool stay_silent(test_store_t *store, const pf_order_t *order) {
  (void)store;
  (void)order;
  return false;
}

static inline pf_source_t pager_source(test_store_t *store) {
  pf_source_t source = {.kind = PF_SOURCE_PAGER, .fd = -1, .pager = atomic_load(&store->pager)};
  pf_pager_hold_by_id(pf_pager_id(source.pager));
  return source;
}

/* --- what must not leak ------------------------------------------------------------------------------------------------------------ */

static inline unsigned count_mappings(void) {
  FILE *maps = fopen("/proc/self/maps", "re");
  unsigned lines = 0;
  for (int c; (c = fgetc(maps)) != EOF;) {
    lines += c == '\n';
  }
  fclose(maps);
  return lines;
}

static inline unsigned count_descriptors(void) {
  DIR *folder = opendir("/proc/self/fd");
  unsigned count = 0;
  while (readdir(folder) != NULL) {
    count++;
  }
  closedir(folder);
  return count;
}

/* --- children that may die ---------------------------------------------------------------------------------------------------------- */

typedef struct {
  int status; /* of waitpid */
  char text[16384]; /* what it wrote on stderr */
} ended_t;

/* In a new process: becomes this program again, as `child NAME BACKEND`. */
static inline void become_child(const char *name, pf_backend_t backend) {
  char *arguments[] = {"test", "child", (char *)name, (char *)backend_name(backend), NULL};
  setenv("TSAN_OPTIONS", "halt_on_error=1:atexit_sleep_ms=0", 1);
  alarm(patience(20));
  execv("/proc/self/exe", arguments);
  _exit(126);
}

/* Runs this program again as `child NAME BACKEND` and waits for its end; SIGALRM ends it after 20 s. */
static inline void run_child(const char *name, pf_backend_t backend, ended_t *out) {
  int ends[2];
  must(pipe2(ends, O_CLOEXEC) == 0, "a pipe");
  pid_t child = fork();
  must(child >= 0, "a child");
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    become_child(name, backend);
  }
  close(ends[1]);
  size_t len = 0;
  for (ssize_t n = 1; n > 0;) {
    n = read(ends[0], out->text + len, sizeof out->text - 1 - len);
    len += n > 0 ? (size_t)n : 0;
  }
  out->text[len] = '\0';
  close(ends[0]);
  waitpid(child, &out->status, 0);
}

static inline void expect_signal(const ended_t *ended, int number, int line) {
  bool met = WIFSIGNALED(ended->status) && WTERMSIG(ended->status) == number;
  expect_at(met, line, "the signal that ended the child", WIFSIGNALED(ended->status) ? WTERMSIG(ended->status) : -WEXITSTATUS(ended->status), number,
            true);
  if (!met) {
    printf("  its stderr: %.800s\n", ended->text);
  }
}
#define EXPECT_SIGNAL(ended, number) expect_signal(ended, number, __LINE__)

static inline void expect_exit(const ended_t *ended, int code, int line) {
  bool met = WIFEXITED(ended->status) && WEXITSTATUS(ended->status) == code;
  expect_at(met, line, "the child's exit code (or -signal)", WIFEXITED(ended->status) ? WEXITSTATUS(ended->status) : -WTERMSIG(ended->status), code, true);
  if (!met) {
    printf("  its stderr: %.800s\n", ended->text);
  }
}
#define EXPECT_EXIT(ended, code) expect_exit(ended, code, __LINE__)

static inline void expect_text(const ended_t *ended, const char *text, int line) {
  if (strstr(ended->text, text) == NULL) {
    expect_at(false, line, text, 0, 0, false);
    printf("  its stderr: %.800s\n", ended->text);
  }
}
#define EXPECT_TEXT(ended, text) expect_text(ended, text, __LINE__)

/* In a child: the handlers that a process without sanitizers has. */
static inline void default_handlers(void) {
  struct sigaction standard = {.sa_handler = SIG_DFL};
  sigaction(SIGSEGV, &standard, NULL);
  sigaction(SIGBUS, &standard, NULL);
}

#endif
