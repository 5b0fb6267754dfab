/* sanitizers: address,thread,none */
/* A process that exits while threads wait for pages. Each scenario is a process of its own, this program run again. */
#include "scenarios.h"
#include "thread.h"
#include "uapi.h"

#include <stdarg.h>

static void *touch_never(void *data) {
  touch(data, 0);
  return NULL;
}

/* exit() has begun while another thread waits: it ends with the exit code, soon, and not with zeroes. */
static int exiting(pf_backend_t backend) {
  default_handlers();
  test_store_t store = {.serve = stay_silent};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS());
  pthread_t thread;
  must(pthread_create(&thread, NULL, touch_never, region) == 0, "a thread");
  pf_sleep_until(pf_now_ns() + 50 * MS);
  pf_exiting(42);
  pthread_join(thread, NULL);
  return 2;
}

/* Whoever touches it is stuck in the read of its store, and cannot look for itself. */
static pf_region_t *stuck_region(pf_backend_t backend, pf_region_options_t options) {
  uint64_t offered, ioctls;
  int fd = pf_uffd_open(O_CLOEXEC | O_NONBLOCK | PF_UFFD_USER_MODE_ONLY, -1);
  uint8_t *bytes = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(fd >= 0 && pf_uffd_handshake(fd, 0, &offered, &ioctls) == 0 && bytes != MAP_FAILED, "a userfaultfd");
  must(pf_uffd_register(fd, (uintptr_t)bytes, 4 * PAGE, PF_UFFDIO_REGISTER_MODE_MISSING, &ioctls) == 0, "a range that nobody serves");
  pf_source_t source = {.kind = PF_SOURCE_MEMORY, .fd = -1};
  source.bytes = bytes;
  return open_region(backend, source, 4 * PAGE, options);
}

static int exiting_stuck(pf_backend_t backend) {
  default_handlers();
  pf_region_t *region = stuck_region(backend, OPTIONS());
  pthread_t thread;
  must(pthread_create(&thread, NULL, touch_never, region) == 0, "a thread");
  pf_sleep_until(pf_now_ns() + 50 * MS);
  pf_exiting(40);
  pf_exiting(42); /* a listener of 'exit' has changed it */
  pthread_join(thread, NULL);
  return 2;
}

/* The main thread goes on after it has said that it exits: what it still does is not cut off, whoever waits. */
static int exiting_slowly(pf_backend_t backend) {
  default_handlers();
  static test_store_t store = {.serve = stay_silent}; /* it is used when this function has returned */
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS());
  pf_region_t *other = open_region(backend, memory_source(16 * PAGE), 16 * PAGE, OPTIONS());
  pthread_t thread;
  must(pthread_create(&thread, NULL, touch_never, region) == 0, "a thread");
  pf_exiting(42);
  pf_sleep_until(pf_now_ns() + 400 * MS);
  uint64_t seed = 1;
  for (uint64_t end = pf_now_ns() + 200 * MS; pf_now_ns() < end; random_next(&seed)) {
  }
  EXPECT_EQ(touch(other, 3 * PAGE), pattern(3 * PAGE)); /* and its pages come */
  return result() == 0 ? 43 : 1;
}

/* The main thread's own page cannot be had: it is told as ever. */
static int exiting_unreadable(pf_backend_t backend) {
  default_handlers();
  test_store_t store = {.serve = stay_silent};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS(.timeout_ms = 100));
  pf_exiting(42);
  pf_sleep_until(pf_now_ns() + 100 * MS);
  touch(region, 0);
  return 2;
}

/* Exit has begun before there was anybody to look after it, and nobody would look for a long time. */
static int exiting_before(pf_backend_t backend) {
  default_handlers();
  pf_exiting(42);
  pf_region_t *region = stuck_region(backend, OPTIONS(.poll_ms = 600000));
  pthread_t thread;
  must(pthread_create(&thread, NULL, touch_never, region) == 0, "a thread");
  pthread_join(thread, NULL);
  return 2;
}

/* --- nobody says that the process exits --------------------------------------------------------------------------------------------- */

static _Atomic int worker_tid, went_on, may_answer, answered_by_look;

static bool serve_when_told(test_store_t *store, const pf_order_t *order) {
  (void)order;
  while (!atomic_load(&may_answer) && !atomic_load(&store->stop)) {
    pf_sleep_until(pf_now_ns() + MS);
  }
  return true;
}

/* A Worker. */
static void *touch_as_worker(void *data) {
  pf_watchdog_javascript(true);
  atomic_store(&worker_tid, pf_thread_tid());
  EXPECT_EQ(touch(data, 0), pattern(0));
  atomic_store(&went_on, 1);
  if (atomic_load(&answered_by_look)) { /* it is joined before it ends */
    pf_sleep_until(pf_now_ns() + 200 * MS);
  }
  pf_watchdog_javascript(false);
  return NULL;
}

static bool first_is_loading(void *data) { return state_of(data, 0) == PF_LOADING; }

static bool has_gone_on(void *unused) {
  (void)unused;
  return atomic_load(&went_on) != 0;
}

/* The main thread sleeps on a word of its own, which happens to hold the number of a Worker that waits. */
static int sleeping(pf_backend_t backend) {
  test_store_t store = {.serve = serve_when_told};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS());
  pthread_t worker;
  must(pthread_create(&worker, NULL, touch_as_worker, region) == 0, "a thread");
  EXPECT(wait_until(first_is_loading, region, LONG_MS));
  uint32_t word = (uint32_t)atomic_load(&worker_tid);
  for (uint64_t end = pf_now_ns() + 300 * MS; pf_now_ns() < end;) {
    pf_guard_kick();
    pf_futex_wait(&word, word, pf_now_ns() + 30 * MS);
  }
  EXPECT(!pf_exit_begun());
  atomic_store(&may_answer, 1);
  EXPECT(wait_until(has_gone_on, NULL, LONG_MS)); /* before it is joined in truth */
  pthread_join(worker, NULL);
  EXPECT(close_region(region));
  stop_store(&store);
  return result();
}

#if !TSAN /* which waits for ever for a thread that it has not seen end, and needs its own open() */

static bool main_sleeps(void *unused) {
  (void)unused;
  char path[64], text[128] = "";
  snprintf(path, sizeof path, "/proc/self/task/%d/syscall", (int)getpid());
  int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
  ssize_t ignored = read(fd, text, sizeof text - 1);
  (void)ignored;
  close(fd);
  return atoi(text) == SYS_futex;
}

/* The guard has seen that the Worker waits, and is about to look what the main thread does. */
int open(const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  int mode = flags & O_CREAT ? va_arg(list, int) : 0;
  va_end(list);
  if (strstr(path, "/syscall") != NULL && atomic_load(&answered_by_look) && !atomic_exchange(&may_answer, 1)) {
    wait_until(has_gone_on, NULL, LONG_MS);
    wait_until(main_sleeps, NULL, LONG_MS);
  }
  return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

/* The Worker has its page in this moment, and ends by itself, for which the main thread waits. */
static int ending(pf_backend_t backend) {
  test_store_t store = {.serve = serve_when_told};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS());
  pthread_t worker;
  atomic_store(&answered_by_look, 1);
  must(pthread_create(&worker, NULL, touch_as_worker, region) == 0, "a thread");
  pthread_join(worker, NULL); /* its wait makes the guard look */
  EXPECT_EQ(atomic_load(&went_on), 1);
  EXPECT(!pf_exit_begun());
  EXPECT(close_region(region));
  stop_store(&store);
  return result();
}

static void *touch_in_vain(void *data) {
  pf_watchdog_javascript(true);
  while (!pf_exit_begun()) {
    pf_sleep_until(pf_now_ns() + MS);
  }
  touch(data, 2 * PAGE);
  _exit(3);
}

/* The main thread joins one Worker after the other; a page of the second cannot be had after the first has ended. */
static int joining(pf_backend_t backend) {
  default_handlers();
  test_store_t store = {.serve = stay_silent};
  start_store(&store);
  pf_source_t source = file_source(PAGE);
  source.check = false;
  pf_region_t *silent = open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS());
  pf_region_t *cut = open_region(backend, source, 4 * PAGE, OPTIONS(.store_length = 4 * PAGE));
  pthread_t workers[2];
  must(pthread_create(&workers[0], NULL, touch_as_worker, silent) == 0, "a thread");
  must(pthread_create(&workers[1], NULL, touch_in_vain, cut) == 0, "a thread");
  EXPECT(wait_until(first_is_loading, silent, LONG_MS));
  pthread_join(workers[0], NULL);
  pthread_join(workers[1], NULL);
  EXPECT_EQ(atomic_load(&went_on), 0);
  return result() == 0 ? 43 : 1;
}

static void test_joining(pf_backend_t backend) {
  ended_t ended;
  run_child("joining", backend, &ended);
  EXPECT_EXIT(&ended, 43);
}

WELL(test_ending, "ending")

#endif

static const scenario_t scenarios[] = {
#if !TSAN
    {"ending", ending}, {"joining", joining},
#endif
    {"exiting before", exiting_before}, {"sleeping", sleeping}, {"exiting", exiting}, {"exiting stuck", exiting_stuck}, {"exiting slowly", exiting_slowly}, {"exiting unreadable", exiting_unreadable},
};

static void test_exiting(pf_backend_t backend) {
  ended_t ended;
  uint64_t started = pf_now_ns();
  run_child("exiting", backend, &ended);
  EXPECT_EXIT(&ended, 42);
  EXPECT(pf_now_ns() - started < SOON);
}

static void run_stuck(const char *name, pf_backend_t backend) {
  ended_t ended;
  pf_uffd_probe_t probe;
  pf_uffd_probe(&probe);
  if (probe.user_mode_errno == 0) {
    run_child(name, backend, &ended);
    EXPECT_EXIT(&ended, 42);
  }
}

static void test_exiting_stuck(pf_backend_t backend) { run_stuck("exiting stuck", backend); }
static void test_exiting_before(pf_backend_t backend) { run_stuck("exiting before", backend); }

WELL(test_sleeping, "sleeping")

static void test_exiting_slowly(pf_backend_t backend) {
  ended_t ended;
  run_child("exiting slowly", backend, &ended);
  EXPECT_EXIT(&ended, 43);
}

static void test_exiting_unreadable(pf_backend_t backend) {
  ended_t ended;
  run_child("exiting unreadable", backend, &ended);
  EXPECT_SIGNAL(&ended, fatal_signal(backend));
  EXPECT_TEXT(&ended, "a page could not be had");
}

int main(int count, char **arguments) {
  if (count == 4) {
    return run_scenario(scenarios, sizeof scenarios / sizeof *scenarios, arguments);
  }
  test_each("once exit has begun a waiter ends the process with its code", test_exiting);
  test_each("once exit has begun a thread that is stuck in its store's read does not keep the process", test_exiting_stuck);
  test_each("once exit has begun the main thread is not cut off, and its pages come", test_exiting_slowly);
  test_each("once exit has begun a page that the main thread cannot have is told", test_exiting_unreadable);
  test_each("a segment that is opened when exit has begun already does not keep the process", test_exiting_before);
  test_each("a main thread that sleeps on a word of its own is not taken for one that exits", test_sleeping);
#if !TSAN
  test_each("nor is one that waits for a thread which has its page", test_ending);
#if defined(__GLIBC__) /* elsewhere it does not show whom the main thread joins */
  test_each("threads that the main thread joins one after the other end though their pages cannot be had", test_joining);
#endif
#endif
  return summary();
}
