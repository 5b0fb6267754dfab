/* Futex, clock and signal masks: see sync.h. Any thread; no lock is taken here but the one passed in. */
#include "sync.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

uint64_t pf_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

static struct timespec as_timespec(uint64_t ns) {
  return (struct timespec){.tv_sec = (time_t)(ns / 1000000000ULL), .tv_nsec = (long)(ns % 1000000000ULL)};
}

void pf_futex_wait(const void *word, uint32_t expected, uint64_t deadline_ns) {
  struct timespec deadline = as_timespec(deadline_ns);
  /* WAIT_BITSET takes an absolute CLOCK_MONOTONIC time, so that a storm of signals cannot stretch the wait. */
  syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expected, &deadline, NULL, FUTEX_BITSET_MATCH_ANY);
}

void pf_futex_wake_all(const void *word) {
  syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL, NULL, 0);
}

void pf_futex_wake_one(const void *word) {
  syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
}

void pf_sleep_until(uint64_t deadline_ns) {
  struct timespec deadline = as_timespec(deadline_ns);
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, NULL) == EINTR) {
  }
}

void pf__lock_slow(pf_lock_t *lock) {
  for (int spin = 0; spin < 100; spin++) {
    uint32_t free_word = 0;
    if (atomic_load_explicit(&lock->word, memory_order_relaxed) == 0 &&
        atomic_compare_exchange_strong_explicit(&lock->word, &free_word, 1, memory_order_acquire, memory_order_relaxed)) {
      return;
    }
  }
  while (atomic_exchange_explicit(&lock->word, 2, memory_order_acquire) != 0) {
    pf_futex_wait(&lock->word, 2, pf_now_ns() + 1000000000ULL);
  }
}

bool pf_lock_before(pf_lock_t *lock, uint64_t deadline_ns) {
  for (uint32_t free_word = 0; !atomic_compare_exchange_strong(&lock->word, &free_word, 1); free_word = 0) {
    uint64_t now = pf_now_ns();
    if (now > deadline_ns) {
      return false;
    }
    pf_sleep_until(now + 1000000ULL);
  }
  return true;
}

void pf_mask_signals(sigset_t *before) {
  sigset_t all;
  sigfillset(&all);
  /* The signals of a fault stay: a fault in here must dump core, not kill without a word. */
  sigdelset(&all, SIGSEGV);
  sigdelset(&all, SIGBUS);
  sigdelset(&all, SIGFPE);
  sigdelset(&all, SIGILL);
  sigdelset(&all, SIGTRAP);
  sigdelset(&all, SIGABRT);
  pthread_sigmask(SIG_SETMASK, &all, before);
}

void pf_restore_signals(const sigset_t *before) { pthread_sigmask(SIG_SETMASK, before, NULL); }
