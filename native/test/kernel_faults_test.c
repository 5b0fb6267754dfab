/* sanitizers: address,thread,none */
/*
 * Faults of system calls (backend 'thread') at awkward moments: while a signal is pending, and while the process exits; and the bars before pages that cannot be had, which
 * are set and taken off by different threads. Each in a child of its own, which a call that never returns would hang.
 */
#include "scenarios.h"
#include "service.h"

static _Atomic int failing, reads_failed; /* the store's reads */

NOTHING_AT_ONCE

ssize_t pread(int fd, void *into, size_t len, off_t offset) {
  if (len >= PAGE && atomic_load(&failing)) {
    atomic_fetch_add(&reads_failed, 1);
    errno = EIO; /* may be otherwise the next time */
    return -1;
  }
  return syscall(SYS_pread64, fd, into, len, offset);
}

/* --- a pending signal ---------------------------------------------------------------------------------------------------------- */

#define SIGNALS 50

static pf_region_t *sent_region;
static _Atomic int handled, handled_while_loading, answer_now;
static int pipe_ends[2];
static ssize_t sent_bytes;

static void on_signal(int number) {
  (void)number;
  atomic_fetch_add(&handled, 1);
  atomic_fetch_add(&handled_while_loading, state_of(sent_region, 1) == PF_LOADING);
}

static bool when_told(test_store_t *store, const pf_order_t *order) {
  (void)order;
  while (!atomic_load(&answer_now) && !atomic_load(&store->stop)) {
    pf_sleep_until(pf_now_ns() + MS);
  }
  return true;
}

UNWATCHED static void *send_page(void *unused) {
  (void)unused;
  sent_bytes = syscall(SYS_write, pipe_ends[1], sent_region->base + PAGE, PAGE);
  return NULL;
}

static bool is_loading(void *unused) {
  (void)unused;
  return state_of(sent_region, 1) == PF_LOADING;
}

/* Signals come while write(2) waits for a page in the kernel: they are handled when the call has its page, which it gets whole, and never as an EFAULT. */
static int pending(pf_backend_t backend) {
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigaction(SIGUSR1, &action, NULL);
  test_store_t store = {.serve = when_told};
  start_store(&store);
  must(pipe2(pipe_ends, O_CLOEXEC) == 0, "a pipe");
  sent_region = open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS());
  pthread_t thread;
  must(pthread_create(&thread, NULL, send_page, NULL) == 0, "a thread");
  EXPECT(wait_until(is_loading, NULL, 15000));
  pf_sleep_until(pf_now_ns() + 20 * MS); /* most likely it sleeps in the kernel by now */
  for (int i = 0; i < SIGNALS; i++) {
    pthread_kill(thread, SIGUSR1);
    pf_sleep_until(pf_now_ns() + MS);
  }
  EXPECT_EQ(atomic_load(&handled), 0); /* the call has not returned */
  EXPECT_EQ(state_of(sent_region, 1), PF_LOADING);
  atomic_store(&answer_now, 1);
  pthread_join(thread, NULL);
  EXPECT_EQ(sent_bytes, (long long)PAGE);
  EXPECT(TSAN || atomic_load(&handled) >= 1); /* its interceptors keep signals back for longer */
  EXPECT_EQ(atomic_load(&handled_while_loading), 0);
  EXPECT_EQ(counter(&sent_region->counters.loads), 1);
  EXPECT_EQ(counter(&sent_region->counters.failures), 0);
  static uint8_t got[65536];
  EXPECT_EQ(read(pipe_ends[0], got, PAGE), (long long)PAGE);
  for (uint64_t i = 0; i < PAGE; i++) {
    EXPECT_EQ(got[i], pattern(PAGE + i));
  }
  EXPECT(close_region(sent_region));
  stop_store(&store);
  return result();
}

WELL(test_pending, "pending")

/* --- exit ----------------------------------------------------------------------------------------------------------------------- */

UNWATCHED static void *send_for_ever(void *data) {
  const pf_region_t *region = data;
  sent_bytes = syscall(SYS_write, pipe_ends[1], region->base, PAGE);
  _exit(3); /* neither bytes nor EFAULT: it ends with the process */
}

static void exit_meanwhile(pf_region_t *region, bool (*ready)(void *)) {
  pthread_t thread;
  must(pipe2(pipe_ends, O_CLOEXEC) == 0, "a pipe");
  must(pthread_create(&thread, NULL, send_for_ever, region) == 0, "a thread");
  EXPECT(wait_until(ready, region, 15000));
  pf_exiting(42);
  pthread_join(thread, NULL);
}

static bool first_is_loading(void *data) { return state_of(data, 0) == PF_LOADING; }

/* Nobody brings the page: its store is in JavaScript, and silent. */
static int exiting(pf_backend_t backend) {
  test_store_t store = {.serve = stay_silent};
  start_store(&store);
  exit_meanwhile(open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS()), first_is_loading);
  return 2;
}

static bool was_repeated(void *data) {
  (void)data;
  return atomic_load(&reads_failed) > 3;
}

/* A service thread reads, fails and repeats it: it looks for the end itself (pf_exit_check), as a thread with a fault of its own does, and must neither end
 * as one that is joined nor end the process before the main thread waits. */
static int exiting_repeated(pf_backend_t backend) {
  atomic_store(&failing, 1);
  exit_meanwhile(open_region(backend, file_source(4 * PAGE), 4 * PAGE, OPTIONS()), was_repeated);
  return 2;
}

static void test_exiting(pf_backend_t backend) {
  ended_t ended;
  run_child("exiting", backend, &ended);
  EXPECT_EXIT(&ended, 42);
}

static void test_exiting_repeated(pf_backend_t backend) {
  ended_t ended;
  run_child("exiting repeated", backend, &ended);
  EXPECT_EXIT(&ended, 42);
}

/* --- bars ----------------------------------------------------------------------------------------------------------------------- */

static bool can_be_sent(void *data) {
  static uint8_t got[65536];
  long sent = syscall(SYS_write, pipe_ends[1], data, 1);
  EXPECT(sent == -1 || read(pipe_ends[0], got, 1) == 1);
  return sent == 1;
}

static _Atomic unsigned rounds_begun, rounds_done;
static _Atomic int looked_enough;
#define BARRED_ROUNDS 1000
#define LONG_ENOUGH (3000 * MS) /* on a busy machine there are fewer rounds */

static void *bar_again_and_again(void *data) {
  sigset_t before;
  pf_mask_signals(&before);
  for (unsigned round = 1;; round++) {
    for (int spins = 0; atomic_load(&rounds_begun) < round; spins++) {
      if (atomic_load(&looked_enough)) {
        return NULL;
      }
      if (spins > 10000) { /* else it would not be in the same moment */
        sched_yield();
      }
    }
    EXPECT_EQ(pf_page_bar(data, 1, false), 0);
    atomic_store(&rounds_done, round);
  }
}

/* A page fails, and is barred while somebody has it healed already: then it is either barred, and known to be, or open. */
static int barred(pf_backend_t backend) {
  must(pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK) == 0, "a pipe");
  pf_region_t *region = open_region(backend, memory_source(4 * PAGE), 4 * PAGE, OPTIONS());
  EXPECT_EQ(touch(region, PAGE), pattern(PAGE));
  pthread_t thread;
  must(pthread_create(&thread, NULL, bar_again_and_again, region) == 0, "a thread");
  sigset_t before;
  pf_mask_signals(&before);
  uint64_t end = pf_now_ns() + LONG_ENOUGH;
  for (unsigned round = 1; round <= BARRED_ROUNDS && pf_now_ns() < end; round++) {
    atomic_store(&rounds_begun, round);
    for (bool at_once = true; at_once || atomic_load(&rounds_done) < round; at_once = false) {
      pf_page_unbar(region, 1); /* as the page's owner */
    }
    EXPECT(pf_page_barred(region, 1) != can_be_sent(region->base + PAGE));
    pf_page_unbar(region, 1);
  }
  pf_restore_signals(&before);
  atomic_store(&looked_enough, 1);
  pthread_join(thread, NULL);
  EXPECT_EQ(touch(region, PAGE), pattern(PAGE));
  EXPECT(close_region(region));
  return result();
}

WELL(test_barred, "barred")

#if defined(__x86_64__)

#define OWN_TOUCHES (SLOW ? 300 : 3000)

/* The store touches what only it can bring: that is refused at once, and the access goes elsewhere. */
static void touch_in_vain(uint64_t offset) {
  pf_failure_t failure;
  EXPECT_EQ(pf_attempt_begin(), 0);
  touch(sent_region, offset);
  EXPECT(pf_attempt_end(&failure) && failure.why.code == PF_E_DEADLOCK);
}

static bool touches_its_own(test_store_t *store, const pf_order_t *order) {
  (void)store;
  touch_in_vain(order->offset);
  return true;
}

/* The page is barred for the store's thread, which hears of it while the page is on its way, and never comes back. */
static int barred_on_its_way(pf_backend_t backend) {
  test_store_t store = {.serve = touches_its_own};
  start_store(&store);
  must(pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK) == 0, "a pipe");
  sent_region = open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS());
  pf_why_t why;
  EXPECT(ensure(sent_region, 1, LONG_MS, false, &why));
  EXPECT(wait_until(can_be_sent, sent_region->base + PAGE, 15000));
  EXPECT(close_region(sent_region));
  stop_store(&store);
  return result();
}

WELL(test_barred_on_its_way, "barred on its way")

static _Atomic unsigned touches;

static bool touches_another(test_store_t *store, const pf_order_t *order) {
  (void)store;
  uint64_t end = pf_now_ns() + LONG_ENOUGH;
  while (order->offset == 0 && atomic_load(&touches) < OWN_TOUCHES && pf_now_ns() < end) {
    touch_in_vain(2 * PAGE);
    atomic_fetch_add(&touches, 1);
  }
  return true;
}

static void *look_all_the_time(void *unused) {
  (void)unused;
  sigset_t before;
  pf_mask_signals(&before);
  while (!atomic_load(&looked_enough)) {
    pf_service_look();
  }
  return NULL;
}

/* What is kept for a thread that was refused is not taken for old by whoever looks at that very moment: the thread hears it, and does not ask again. */
static int heard(pf_backend_t backend) {
  test_store_t store = {.serve = touches_another};
  start_store(&store);
  sent_region = open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS());
  pthread_t thread;
  must(pthread_create(&thread, NULL, look_all_the_time, NULL) == 0, "a thread");
  EXPECT_EQ(checked_byte(sent_region, 0), pattern(0));
  atomic_store(&looked_enough, 1);
  pthread_join(thread, NULL);
  EXPECT(counter(&sent_region->counters.faults) >= atomic_load(&touches));
  EXPECT(counter(&sent_region->counters.faults) < atomic_load(&touches) + 3); /* a thread that is kept from running for a second asks again */
  EXPECT(close_region(sent_region));
  stop_store(&store);
  return result();
}

WELL(test_heard, "heard")

#endif

/* --- a page that the kernel has lost ------------------------------------------------------------------------------------------------ */

enum { SCATTERED = 8 };

/* Whoever closes pages must not touch one that is not there any more, in a system call neither: it would wait for itself. */
static int closing(pf_backend_t backend) {
  uint64_t pages[SCATTERED];
  pf_region_t *region = open_region(backend, memory_source(64 * PAGE), 64 * PAGE, OPTIONS(.writable = true));
  sigset_t before;
  for (uint64_t i = 0; i < SCATTERED; i++) {
    pages[i] = 5 * i;
    EXPECT_EQ(touch(region, pages[i] * PAGE), pattern(pages[i] * PAGE));
  }
  must(madvise(region->base + pages[4] * PAGE, PAGE, MADV_DONTNEED) == 0, "madvise");
  pf_mask_signals(&before);
  for (uint64_t i = 0; i < SCATTERED; i++) {
    uint8_t seen = atomic_load(&region->states[pages[i]]);
    EXPECT((seen & PF_STATE) == PF_PRESENT);
    atomic_store(&region->states[pages[i]], (uint8_t)((seen & ~PF_STATE) | PF_EVICTING));
  }
  uint64_t started = pf_now_ns();
  EXPECT_EQ(pf_pages_close(region, pages, SCATTERED), 0);
  EXPECT(pf_now_ns() - started < SOON);
  pf_pages_return(region, pages, SCATTERED);
  pf_restore_signals(&before);
  EXPECT_EQ(first_difference(region, 0, 64 * PAGE, 0, 64 * PAGE), 64 * PAGE);
  EXPECT(close_region(region));
  return result();
}

WELL(test_closing, "closing")

static const scenario_t scenarios[] = {
    {"closing", closing}, {"pending", pending}, {"exiting", exiting}, {"exiting repeated", exiting_repeated}, {"barred", barred},
#if defined(__x86_64__)
    {"barred on its way", barred_on_its_way}, {"heard", heard},
#endif
};

int main(int count, char **arguments) {
  if (count == 4) {
    return run_scenario(scenarios, sizeof scenarios / sizeof *scenarios, arguments);
  }
  test_on(PF_BACKEND_THREAD, "a system call that waits for a page while signals are pending gets it, and they are handled after that", test_pending);
  test_on(PF_BACKEND_THREAD, "once exit has begun a system call that waits for a page does not keep the process", test_exiting);
  test_on(PF_BACKEND_THREAD, "once exit has begun a service thread whose read fails again and again does not keep the process", test_exiting_repeated);
  test_on(PF_BACKEND_THREAD, "pages are closed without a wait though one of them is not there any more", test_closing);
  test_on(PF_BACKEND_THREAD, "a page that is barred and opened at the same moment is one of the two", test_barred);
#if defined(__x86_64__) /* elsewhere an access cannot be redirected */
  test_on(PF_BACKEND_THREAD, "a page that was barred while it was on its way is open to system calls in the end", test_barred_on_its_way);
  test_on(PF_BACKEND_THREAD, "a thread that is refused hears it once", test_heard);
#endif
  return summary();
}
