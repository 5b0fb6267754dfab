/*
 * Futex, clock, and the lock of the engine. Everything here may be used in a signal handler. A thread that takes a
 * lock outside the handler masks its signals first (pf_mask_signals): a handler of somebody else's that ran in between
 * and touched paged memory would wait for the thread it interrupted.
 */
#ifndef PF_SYNC_H
#define PF_SYNC_H

#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
  _Atomic uint32_t word; /* 0 free, 1 held, 2 held and somebody may wait */
} pf_lock_t;

/* CLOCK_MONOTONIC in nanoseconds; no system call where the kernel exports its clock. */
uint64_t pf_now_ns(void);

/* Sleeps while *word == expected, until the absolute deadline. Any return means: look again. */
void pf_futex_wait(const void *word, uint32_t expected, uint64_t deadline_ns);
void pf_futex_wake_all(const void *word);
void pf_futex_wake_one(const void *word);

/* Sleeps until the absolute time; signals do not shorten it. */
void pf_sleep_until(uint64_t deadline_ns);

void pf__lock_slow(pf_lock_t *lock);

static inline void pf_lock(pf_lock_t *lock) {
  uint32_t free_word = 0;
  if (!atomic_compare_exchange_strong_explicit(&lock->word, &free_word, 1, memory_order_acquire, memory_order_relaxed)) {
    pf__lock_slow(lock);
  }
}

static inline void pf_unlock(pf_lock_t *lock) {
  if (atomic_exchange_explicit(&lock->word, 0, memory_order_release) == 2) {
    pf_futex_wake_one(&lock->word);
  }
}

/* For last words: whoever holds it may be this very thread, or have crashed. False: it was not to be had in time. */
bool pf_lock_before(pf_lock_t *lock, uint64_t deadline_ns);

/* For threads outside the handler: every signal that can be masked is. Pair them. */
void pf_mask_signals(sigset_t *before);
void pf_restore_signals(const sigset_t *before);

#endif
