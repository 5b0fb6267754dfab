/*
 * What tests of failing system calls share: which call fails, when, and how. A test says in `injected` what its calls are and in which ways each may fail, puts its own
 * functions before those of the C library, and asks in each of them whether it is to fail now. Included once a program.
 */
#ifndef PF_TEST_INJECT_H
#define PF_TEST_INJECT_H

#include "support.h"

#include <stdarg.h>

#define HOWS 12

typedef struct {
  const char *name;
  int how[HOWS]; /* errnos, or what the test takes them for; 0 ends the list */
} injected_t;

/* The test's. */
static const injected_t injected_calls[];

static _Atomic int armed;       /* 0: nothing fails */
static _Atomic int victim;      /* the call that fails; -1: any */
static _Atomic int countdown;   /* once: how many of them pass before */
static _Atomic unsigned one_in; /* at random: one in so many; 0: once */
static _Atomic int failing_how; /* 0: one of the list */
static _Atomic uint64_t dice;
static _Atomic unsigned injected;

static inline uint64_t roll(void) {
  uint64_t seed = atomic_load(&dice), next;
  do {
    next = seed;
    random_next(&next);
  } while (!atomic_compare_exchange_weak(&dice, &seed, next));
  return next * 0x2545F4914F6CDD1DULL >> 16;
}

/* How this call is to fail now, or 0. */
static inline int must_fail(int call) {
  int wanted = atomic_load(&victim);
  if (!atomic_load(&armed) || (wanted >= 0 && wanted != call)) {
    return 0;
  }
  unsigned odds = atomic_load(&one_in);
  if (odds == 0 ? atomic_fetch_sub(&countdown, 1) != 0 : roll() % odds != 0) {
    return 0;
  }
  atomic_fetch_add(&injected, 1);
  int how = atomic_load(&failing_how);
  if (how != 0) {
    return how;
  }
  unsigned count = 0;
  while (count < HOWS && injected_calls[call].how[count] != 0) {
    count++;
  }
  return injected_calls[call].how[roll() % count];
}

/* `odds` 0: the call fails once, after `after` of them. Else one in so many does. `how` 0: in any way of its list. */
static inline void arm(int call, unsigned odds, int after, int how) {
  atomic_store(&victim, call);
  atomic_store(&one_in, odds);
  atomic_store(&countdown, after);
  atomic_store(&failing_how, how);
  atomic_store(&injected, 0);
  atomic_store(&armed, 1);
}

static inline void disarm(void) { atomic_store(&armed, 0); }

static inline int fail(int err) {
  errno = err;
  return -1;
}

/* In a test's own syscall(2): declares `with`, the arguments after the number. */
#define SYSCALL_ARGUMENTS(number, with)  \
  long with[6];                          \
  do {                                   \
    va_list list_;                       \
    va_start(list_, number);             \
    for (size_t i_ = 0; i_ < 6; i_++) {  \
      with[i_] = va_arg(list_, long);    \
    }                                    \
    va_end(list_);                       \
  } while (0)

/* The system call itself, where the test stands in for syscall(2) too. */
static inline long raw_syscall(long number, const long *with) {
#if defined(__x86_64__)
  register long r10 __asm__("r10") = with[3];
  register long r8 __asm__("r8") = with[4];
  register long r9 __asm__("r9") = with[5];
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(with[0]), "S"(with[1]), "d"(with[2]), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
#else
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = with[0];
  register long x1 __asm__("x1") = with[1];
  register long x2 __asm__("x2") = with[2];
  register long x3 __asm__("x3") = with[3];
  register long x4 __asm__("x4") = with[4];
  register long x5 __asm__("x5") = with[5];
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  long result = x0;
#endif
  return result < 0 && result > -4096 ? fail((int)-result) : result;
}

#endif
