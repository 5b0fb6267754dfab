/* sanitizers: address,thread,none */
/*
 * What /proc says of threads, and cannot say: opening and reading its files fails with each errno that it can have. Who asks is the watchdog, the end of the process, the
 * verdicts of service threads, signalfd, and whoever gives page tables back. None of them takes "it cannot be told" for an answer: no sentence says that a thread has ended
 * which lives, no thread is left out whose signals are to be blocked, none is ended by what another call was told. The calls are this program's own symbols, which go
 * before the C library's.
 */
#include "scenarios.h"

#include "inject.h"
#include "process.h"
#include "stalls.h"
#include "thread.h"

#include <dirent.h>
#include <dlfcn.h>

typedef enum { OPEN, READ, OPENDIR, READDIR, SIGNALFD, CALLS } call_t;

static const injected_t injected_calls[CALLS] = {
    [OPEN] = {"open", {EMFILE, ENFILE, ENOMEM, EACCES, EINTR, ENOENT, EPERM, ENOSYS}},
    [READ] = {"read", {EINTR, EIO, ENOMEM, ESRCH, EPERM}},
    [OPENDIR] = {"opendir", {EMFILE, ENFILE, ENOMEM, EACCES, ENOENT}},
    [READDIR] = {"readdir", {ENOMEM, ENOENT, EIO, EINVAL}},
    [SIGNALFD] = {"signalfd", {EMFILE, ENFILE, ENODEV, ENOMEM}},
};

#define EACH_HOW(call, how) \
  for (int which_ = 0, how = 0; which_ < HOWS && (how = injected_calls[call].how[which_]) != 0; which_++)

static _Atomic int task_fd = -1; /* of the file that is read */
static _Atomic int held;         /* reads of the store do not return */

int open(const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  int mode = flags & O_CREAT ? va_arg(list, int) : 0;
  va_end(list);
  bool of_task = strncmp(path, "/proc/self/task/", 16) == 0;
  int how = of_task ? must_fail(OPEN) : 0;
  int fd = how != 0 ? fail(how) : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
  if (of_task) {
    atomic_store(&task_fd, fd);
  }
  return fd;
}

ssize_t read(int fd, void *into, size_t len) {
  int how = fd >= 0 && fd == atomic_load(&task_fd) ? must_fail(READ) : 0;
  return how != 0 ? fail(how) : syscall(SYS_read, fd, into, len);
}

DIR *opendir(const char *path) {
  static DIR *(*next)(const char *);
  *(void **)&next = dlsym(RTLD_NEXT, "opendir");
  int how = must_fail(OPENDIR);
  if (how != 0) {
    errno = how;
    return NULL;
  }
  return next(path);
}

struct dirent *readdir(DIR *dir) {
  static struct dirent *(*next)(DIR *);
  *(void **)&next = dlsym(RTLD_NEXT, "readdir");
  int how = must_fail(READDIR);
  if (how != 0) {
    errno = how;
    return NULL;
  }
  return next(dir);
}

int signalfd(int fd, const sigset_t *set, int flags) {
  int how = must_fail(SIGNALFD);
  return how != 0 ? fail(how) : (int)syscall(SYS_signalfd4, fd, set, 8, flags);
}

NOTHING_AT_ONCE

ssize_t pread(int fd, void *into, size_t len, off_t offset) {
  while (len >= PAGE && atomic_load(&held)) {
    pf_sleep_until(pf_now_ns() + MS);
  }
  return syscall(SYS_pread64, fd, into, len, offset);
}

/* --- the watchdog ------------------------------------------------------------------------------------------------------------------ */

static void *touch_third(void *data) {
  EXPECT_EQ(touch(data, 3 * PAGE), pattern(3 * PAGE));
  return NULL;
}

/* A late page is told of, whatever cannot be looked at; that a thread lives is known all the same. */
static void late(pf_backend_t backend, call_t call, int how) {
  pf_region_t *region = open_region(backend, file_source(8 * PAGE), 8 * PAGE, OPTIONS(.stall_after_ms = 10, .poll_ms = 50));
  stall_search_t search = {.region = atomic_load(&region->id), .serial = pf_stall_serial()};
  char wanted[80];
  pthread_t thread;
  snprintf(wanted, sizeof wanted, "what its thread does cannot be seen (errno %d in /proc)", how);
  atomic_store(&held, 1);
  arm(call, 1, 0, how);
  must(pthread_create(&thread, NULL, touch_third, region) == 0, "a thread");
  EXPECT(wait_until(is_told_late, &search, LONG_MS));
  EXPECT(strstr(search.stall.doing, "the read of the store has not returned; ") == search.stall.doing);
  EXPECT(strstr(search.stall.doing, wanted) != NULL);
  EXPECT(strstr(search.stall.doing, "ended") == NULL);
  disarm();
  atomic_store(&held, 0);
  pthread_join(thread, NULL);
  EXPECT(close_region(region));
}

static void watchdog_open(pf_backend_t backend) { EACH_HOW(OPEN, how) late(backend, OPEN, how); }
static void watchdog_read(pf_backend_t backend) { EACH_HOW(READ, how) late(backend, READ, how); }

/* --- verdicts ---------------------------------------------------------------------------------------------------------------------- */

/* A system call gets EFAULT because there is no room. Then there is, and the same thread touches that page: it is told nothing of what the call was told. */
static int after_a_call(pf_backend_t backend) {
  default_handlers();
  pf_budget_t *budget = NULL;
  must(pf_budget_create(PF_BUDGET_PAGES_MIN * PAGE, &budget) == 0, "a budget");
  int out = memfd_create("out", MFD_CLOEXEC);
  EACH_HOW(OPEN, how) {
    pf_region_t *region = open_region(backend, memory_source(16 * PAGE), 16 * PAGE, OPTIONS(.budget = budget, .timeout_ms = 60));
    for (uint64_t page = 0; page < PF_BUDGET_PAGES_MIN; page++) {
      EXPECT_EQ(pf_page_hold(region, page), 0);
      EXPECT_EQ(touch(region, page * PAGE), pattern(page * PAGE));
    }
    arm(OPEN, 1, 0, how);
    TOUCHING();
    ssize_t sent = syscall(SYS_pwrite64, out, region->base + 9 * PAGE, PAGE, 0);
    EXPECT(sent < 0 && errno == EFAULT);
    TOUCHED();
    EXPECT(atomic_load(&injected) > 0);
    disarm();
    for (uint64_t page = 0; page < PF_BUDGET_PAGES_MIN; page++) {
      pf_page_unhold(region, page);
    }
    EXPECT_EQ(touch(region, 9 * PAGE), pattern(9 * PAGE));
    EXPECT(close_region(region));
  }
  close(out);
  pf_budget_drop(budget);
  return result();
}

WELL(test_after_a_call, "after a call")

/* --- the end ----------------------------------------------------------------------------------------------------------------------- */

static void *touch_first(void *data) {
  touch(data, 0);
  return NULL;
}

/* Where /proc does not say what the main thread waits for, it is taken to wait for the others. */
static int ending(pf_backend_t backend) {
  default_handlers();
  pf_region_t *region = open_region(backend, file_source(4 * PAGE), 4 * PAGE, OPTIONS());
  atomic_store(&held, 1);
  pthread_t thread;
  must(pthread_create(&thread, NULL, touch_first, region) == 0, "a thread");
  pf_sleep_until(pf_now_ns() + 50 * MS);
  arm(strcmp(current_test, "ending unread") == 0 ? READ : OPEN, 1, 0, 0);
  pf_exiting(42);
  pthread_join(thread, NULL);
  return 2;
}

static void test_ending(pf_backend_t backend) {
  const char *const names[] = {"ending", "ending unread"};
  for (size_t i = 0; i < 2; i++) {
    ended_t ended;
    run_child(names[i], backend, &ended);
    EXPECT_EXIT(&ended, 42);
  }
}

/* --- page tables ------------------------------------------------------------------------------------------------------------------- */

/* Whether the kernel gives page tables back is asked of /proc. Where that says nothing, the bound holds and bytes are right. */
static int scanning(pf_backend_t backend) {
  uint64_t len = 24 << 20;
  pf_budget_t *budget = NULL;
  must(pf_budget_create(4 << 20, &budget) == 0, "a budget");
  for (call_t call = OPEN; call <= READ; call++) {
    pf_region_t *region = open_region(backend, memory_source(len), len, OPTIONS(.budget = budget, .readahead = -1));
    arm(call, 2, 0, 0);
    for (int round = 0; round < 2; round++) {
      EXPECT_EQ(first_difference(region, 0, len, 0, len), len);
    }
    disarm();
    pf_budget_numbers_t numbers;
    pf_budget_numbers(budget, &numbers);
    EXPECT(numbers.used <= numbers.limit);
    EXPECT(close_region(region));
  }
  pf_budget_drop(budget);
  return result();
}

WELL(test_scanning, "scanning")

/* --- signalfd ---------------------------------------------------------------------------------------------------------------------- */

static _Atomic int stop_thread;
static _Atomic bool blocks;

static bool is_blocked(void) {
  sigset_t set;
  pthread_sigmask(SIG_SETMASK, NULL, &set);
  return sigismember(&set, SIGUSR2) == 1;
}

static void *look_at_mask(void *unused) {
  while (!atomic_load(&stop_thread)) {
    atomic_store(&blocks, is_blocked());
    pf_sleep_until(pf_now_ns() + MS / 20);
  }
  return unused;
}

static bool is_free(void *unused) {
  (void)unused;
  return !atomic_load(&blocks);
}

/* Whichever call fails, the descriptor is refused with its errno, and no thread goes on with signals blocked; the next try works, and has every thread. */
static int as_descriptor(pf_backend_t backend) {
  (void)backend;
  uint64_t signals = PF_SIGNAL_BIT(SIGUSR2);
  pthread_t thread;
  pf_signal_t came[4];
  must(pthread_create(&thread, NULL, look_at_mask, NULL) == 0, "a thread");
  for (call_t call = OPEN; call < CALLS; call++) {
    EACH_HOW(call, how) {
      for (int after = 0; after < (call == SIGNALFD ? 1 : 4); after++) {
        arm(call, 0, after, how);
        int fd = pf_signals_open(signals);
        unsigned failed = atomic_load(&injected);
        disarm();
        EXPECT(fd >= 0 ? failed == 0 : fd == -how || fd == -ETIMEDOUT);
        if (fd < 0) {
          EXPECT(!is_blocked());
          EXPECT(wait_until(is_free, NULL, LONG_MS));
        } else {
          kill(getpid(), SIGUSR2); /* a thread that was left out would end us */
          EXPECT_EQ(pf_signals_read(fd, came, 4), 1);
          EXPECT_EQ(pf_signals_close(fd, signals), 0);
        }
      }
    }
  }
  atomic_store(&stop_thread, 1);
  pthread_join(thread, NULL);
  return result();
}

WELL(test_descriptor, "as a descriptor")

static const scenario_t scenarios[] = {
    {"after a call", after_a_call}, {"ending", ending}, {"ending unread", ending}, {"scanning", scanning}, {"as a descriptor", as_descriptor},
};

int main(int count, char **arguments) {
  if (count == 4) {
    return run_scenario(scenarios, sizeof scenarios / sizeof *scenarios, arguments);
  }
  setenv("PAGEFAULT_STALL_REPORTS", "0", 1);
  test_each("a late page is told of where no file of /proc can be opened", watchdog_open);
  test_each("nor read", watchdog_read);
  test_on(PF_BACKEND_THREAD, "what a system call was told is not told again to its thread", test_after_a_call);
  test_each("a process ends with its code", test_ending);
  test_each("a scan under a budget is right", test_scanning);
  if (!TSAN) { /* which calls handlers later, with a copy of the context */
    test_on(PF_BACKEND_MPROTECT, "signals come by a descriptor, or as ever", test_descriptor);
  }
  return summary();
}
