/*
 * How a process ends by SIGSEGV or SIGBUS: see crash.h. Runs in signal handlers.
 *
 * The default action holds for the whole process, and paging needs these signals: while one thread crashes, a page fault of another would be the one that
 * ends the process, and the core would show an innocent thread. So whoever crashes first says so, and waits a moment in which the others come to a stop in
 * their handlers; only then the default action is put in place. If the process lives on after all (the instruction did not fault again) they go on.
 */
#include "crash.h"
#include "library.h"
#include "thread.h"

#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SETTLE_NS 10000000ULL
#define END_NS 1000000000ULL
#define SETTLE_EXPECTED_NS 2000000ULL /* before it is known to be a crash */
#define END_EXPECTED_NS 50000000ULL   /* the handler may leave by siglongjmp */

/* The thread that is dying, and until when: if it is still there then, it is not. 0: none. One word, so that nobody takes the place of one that has only just
 * begun: units of a millisecond, more or less, and the tid in the low bits (PID_MAX_LIMIT is 2^22). */
static _Atomic uint64_t dying;
#define TID_BITS 22
#define UNIT_SHIFT 20

static bool is_dying(uint64_t word) { return word != 0 && pf_now_ns() >> UNIT_SHIFT < word >> TID_BITS; }

static bool is_me(uint64_t word) { return (word & ((1U << TID_BITS) - 1)) == (uint64_t)pf_thread_tid(); }

bool pf_crash_begun(void) { return is_dying(atomic_load_explicit(&dying, memory_order_relaxed)); }

void pf_crash_wait(void) {
  for (uint64_t seen; is_dying(seen = atomic_load(&dying)) && !is_me(seen);) {
    pf_sleep_until(pf_now_ns() + 1000000ULL);
  }
}

static void settle(uint64_t settle_ns, uint64_t end_ns) {
  uint64_t seen = atomic_load(&dying), now, mine;
  do {
    while (is_dying(seen) && !is_me(seen)) {
      pf_sleep_until(pf_now_ns() + 1000000ULL);
      seen = atomic_load(&dying);
    }
    now = pf_now_ns();
    mine = (now + end_ns) >> UNIT_SHIFT << TID_BITS | (uint64_t)pf_thread_tid();
  } while (!atomic_compare_exchange_strong(&dying, &seen, mine));
  pf_sleep_until(now + settle_ns);
}

bool pf_crash_expected(uintptr_t instruction) {
  pf_library_t library;
  if (pf_library_at(instruction, &library) != PF_LIBRARY_FOUND) {
    return false;
  }
  settle(SETTLE_EXPECTED_NS, END_EXPECTED_NS);
  return true;
}

void pf_crash_averted(void) {
  uint64_t seen = atomic_load(&dying);
  if (is_me(seen)) {
    atomic_compare_exchange_strong(&dying, &seen, 0); /* else another one's turn has come */
  }
}

static bool comes_again(int number, const siginfo_t *info) {
  return info->si_code > 0 && number != SIGTRAP && !(number == SIGBUS && info->si_code == BUS_MCEERR_AO);
}

void pf_crash(int number, siginfo_t *info, const struct sigaction *ours) {
  if (number != SIGTRAP) {
    if (ours != NULL) {
      sigaction(number, ours, NULL);
    }
    settle(SETTLE_NS, END_NS);
  }
  struct sigaction standard = {.sa_handler = SIG_DFL};
  sigaction(number, &standard, NULL);
  if (comes_again(number, info)) {
    return; /* the core shows the original access */
  }
  /* Blocked until the handler returns: then it is delivered where it came first. */
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, number);
  pthread_sigmask(SIG_BLOCK, &one, NULL);
  syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), number, info);
}

static bool is_raised(int number) {
  sigset_t pending;
  return sigpending(&pending) == 0 && sigismember(&pending, number) == 1;
}

bool pf_crash_given_up(int number) {
  struct sigaction now;
  bool standard = sigaction(number, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL;
  if (!standard && !is_raised(number)) { /* the guard may have put ours back in between */
    return false;
  }
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, number);
  pthread_sigmask(SIG_BLOCK, &one, NULL); /* until our handler returns */
  struct timespec none = {0};
  while (sigtimedwait(&one, NULL, &none) == number) {
  }
  return true;
}
