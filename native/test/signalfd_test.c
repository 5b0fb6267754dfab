/* sanitizers: address,none */
/*
 * Signals as a descriptor, with many threads that come and go. Not under ThreadSanitizer, which calls handlers later, with a copy of the
 * context, so that a thread's mask cannot be changed from one.
 */
#include "support.h"

#include "process.h"

#ifdef __GLIBC__
#if __GLIBC_PREREQ(2, 32)
#define MAKES_AS_GLIBC /* it can be said which mask a thread begins with */
#endif
#endif

enum { THREADS = 6 };
static _Atomic bool stop_threads;

static uint64_t mask_of(void) {
  sigset_t set;
  uint64_t mask = 0;
  pthread_sigmask(SIG_SETMASK, NULL, &set);
  for (int number = 1; number <= 64; number++) {
    mask |= sigismember(&set, number) == 1 ? PF_SIGNAL_BIT(number) : 0;
  }
  return mask;
}

typedef struct {
  pthread_t thread;
  int kind;
  _Atomic uint64_t mask;
} worker_t;

static void *short_lived(void *unused) { return unused; }

static void *work(void *data) {
  worker_t *worker = data;
  if (worker->kind == 1) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* blocked before anybody came */
  } else if (worker->kind == 2) {
    sigset_t set;
    sigfillset(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
  }
  while (!atomic_load(&stop_threads)) {
    if (worker->kind == 3) {
      pthread_t child;
      if (pthread_create(&child, NULL, short_lived, NULL) == 0) {
        pthread_join(child, NULL);
      }
    } else if (worker->kind == 4) {
      sigset_t before;
      pf_mask_signals(&before);
      pf_restore_signals(&before);
    } else {
      pf_sleep_until(pf_now_ns() + (worker->kind == 5 ? MS : MS / 20));
    }
    atomic_store(&worker->mask, mask_of());
  }
  return NULL;
}

static void wait_for_masks(worker_t *workers) {
  for (int i = 0; i < THREADS; i++) {
    atomic_store(&workers[i].mask, ~0ULL >> 1);
  }
  for (int i = 0; i < THREADS; i++) {
    while (atomic_load(&workers[i].mask) == ~0ULL >> 1) {
      sched_yield();
    }
  }
}

/* On a machine that is busy enough a thread may not answer within the second that it has: then all is as before, so it may be tried again. */
static int open_signals(uint64_t signals) {
  int fd = -ETIMEDOUT;
  for (int tries = 0; tries < 20 && fd == -ETIMEDOUT; tries++) {
    fd = pf_signals_open(signals);
  }
  errno = fd < 0 ? -fd : 0;
  must(fd >= 0, "signals_open");
  return fd;
}

static void open_and_close(pf_backend_t backend) {
  (void)backend;
  worker_t workers[THREADS] = {0};
  uint64_t signals = PF_SIGNAL_BIT(SIGUSR2) | PF_SIGNAL_BIT(SIGHUP);
  atomic_store(&stop_threads, false);
  for (int i = 0; i < THREADS; i++) {
    workers[i].kind = i;
    pthread_create(&workers[i].thread, NULL, work, &workers[i]);
  }
  uint64_t end = pf_now_ns() + 15000 * MS; /* a busy machine plays fewer rounds */
  for (int round = 0; round < (SLOW ? 20 : 60) && (round < 3 || pf_now_ns() < end); round++) {
    wait_for_masks(workers);
    int fd = open_signals(signals);
    EXPECT_EQ(pf_signals_open(PF_SIGNAL_BIT(SIGUSR2)), -EBUSY);
    pf_signal_t came[16];
    EXPECT_EQ(pf_signals_read(fd, came, 16), -EAGAIN);
    for (int i = 0; i < 20; i++) {
      kill(getpid(), SIGUSR2); /* the default action would end us */
      kill(getpid(), SIGHUP);
      EXPECT_EQ(pf_signals_read(fd, came, 16), 2);
      EXPECT(came[0].number == SIGHUP && came[1].number == SIGUSR2);
      EXPECT(came[0].pid == (uint32_t)getpid() && came[0].code == SI_USER);
    }
    wait_for_masks(workers);
    for (int i = 0; i < THREADS; i++) {
      EXPECT_EQ(atomic_load(&workers[i].mask) & signals, signals);
    }
    kill(getpid(), SIGUSR2); /* not read: dropped */
    EXPECT_EQ(pf_signals_close(fd, signals), 0);
    wait_for_masks(workers);
    EXPECT_EQ(mask_of() & signals, 0);
    for (int i = 0; i < THREADS; i++) {
      uint64_t kept = workers[i].kind == 1 ? PF_SIGNAL_BIT(SIGUSR2) : workers[i].kind == 2 ? signals : 0;
      EXPECT_EQ(atomic_load(&workers[i].mask) & signals, kept);
    }
  }
  atomic_store(&stop_threads, true);
  for (int i = 0; i < THREADS; i++) {
    pthread_join(workers[i].thread, NULL);
  }
}

/* --- one thread at a time ------------------------------------------------------------------------------------------------------------ */

typedef enum { IDLE, MASK, RESTORE, BEAR, STOP } op_t;

/* A thread that does what it is told. */
static struct {
  pthread_t thread;
  _Atomic int op;
  sigset_t before;
  uint64_t mask; /* behind RESTORE: its own; behind BEAR: the child's, when it began */
} puppet;

#ifdef MAKES_AS_GLIBC
static _Atomic bool opened;

static void *tell_mask(void *into) {
  while (!atomic_load(&opened)) {
    pf_sleep_until(pf_now_ns() + MS / 10);
  }
  *(uint64_t *)into = mask_of();
  return NULL;
}

/* As glibc makes a thread, but takes its time in the middle: it blocks everything, with what programs cannot block, and the child begins with what was before. */
static void bear(void) {
  pthread_t child;
  pthread_attr_t attributes;
  sigset_t before;
  uint64_t all = ~0ULL, old = 0;
  pthread_sigmask(SIG_SETMASK, NULL, &before);
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, sizeof all);
  atomic_store(&puppet.op, IDLE);
  pf_sleep_until(pf_now_ns() + 200 * MS);
  pthread_attr_init(&attributes);
  must(pthread_attr_setsigmask_np(&attributes, &before) == 0 && pthread_create(&child, &attributes, tell_mask, &puppet.mask) == 0, "a child");
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &old, NULL, sizeof old);
  pthread_join(child, NULL);
  pthread_attr_destroy(&attributes);
}
#endif

static void *obey(void *unused) {
  for (;;) {
    switch (atomic_load(&puppet.op)) {
      case MASK:
        pf_mask_signals(&puppet.before);
        atomic_store(&puppet.op, IDLE);
        break;
      case RESTORE:
        pf_restore_signals(&puppet.before);
        puppet.mask = mask_of();
        atomic_store(&puppet.op, IDLE);
        break;
#ifdef MAKES_AS_GLIBC
      case BEAR:
        bear();
        break;
#endif
      case STOP:
        return unused;
      default:
        pf_sleep_until(pf_now_ns() + MS / 10);
    }
  }
}

static void tell(op_t op) {
  atomic_store(&puppet.op, op);
  while (atomic_load(&puppet.op) != IDLE) {
    sched_yield();
  }
}

static void start_puppet(void) {
  atomic_store(&puppet.op, IDLE);
  must(pthread_create(&puppet.thread, NULL, obey, NULL) == 0, "a thread");
}

static void stop_puppet(void) {
  atomic_store(&puppet.op, STOP);
  pthread_join(puppet.thread, NULL);
}

/* A thread that is stopped at a page masks everything, for as long as that takes. */
static void back_from_a_long_wait(pf_backend_t backend) {
  (void)backend;
  uint64_t hangup = PF_SIGNAL_BIT(SIGHUP), other = PF_SIGNAL_BIT(SIGUSR2);
  start_puppet();
  for (int round = 0; round < 3; round++) {
    tell(MASK);
    int first = open_signals(hangup), second = open_signals(other);
    tell(RESTORE);
    EXPECT_EQ(puppet.mask & (hangup | other), hangup | other);
    tell(MASK);
    EXPECT_EQ(pf_signals_close(first, hangup), 0);
    first = open_signals(hangup);
    EXPECT_EQ(pf_signals_close(second, other), 0);
    tell(RESTORE);
    EXPECT_EQ(puppet.mask & (hangup | other), hangup); /* what holds now, whatever held meanwhile */
    tell(MASK);
    second = open_signals(other);
    EXPECT_EQ(pf_signals_close(second, other), 0);
    EXPECT_EQ(pf_signals_close(first, hangup), 0);
    tell(RESTORE);
    EXPECT_EQ(puppet.mask & (hangup | other), 0);
  }
  stop_puppet();
}

#ifdef MAKES_AS_GLIBC
static void born_late(pf_backend_t backend) {
  (void)backend;
  start_puppet();
  for (int round = 0; round < 3; round++) {
    atomic_store(&opened, false);
    tell(BEAR);
    int fd = open_signals(PF_SIGNAL_BIT(SIGUSR2));
    atomic_store(&opened, true);
    tell(MASK); /* behind the birth */
    EXPECT_EQ(puppet.mask & PF_SIGNAL_BIT(SIGUSR2), PF_SIGNAL_BIT(SIGUSR2));
    tell(RESTORE);
    EXPECT_EQ(pf_signals_close(fd, PF_SIGNAL_BIT(SIGUSR2)), 0);
  }
  stop_puppet();
}
#endif

static void on_signal(int number) { (void)number; }

static _Atomic bool looks, too_late;

/* Handles the signal from the moment at which it is ignored. NULL: it never saw that. */
static void *handle_meanwhile(void *seen) {
  struct sigaction now = {0}, handled = {.sa_handler = on_signal};
  while (now.sa_handler != SIG_IGN) {
    if (atomic_load(&too_late)) {
      return NULL;
    }
    sigaction(SIGUSR2, NULL, &now);
    atomic_store(&looks, true);
  }
  sigaction(SIGUSR2, &handled, NULL);
  return seen;
}

/* Closing ignores a signal for a moment; whoever handles it from then on goes on to. */
static void handled_meanwhile(pf_backend_t backend) {
  (void)backend;
  struct sigaction now, standard = {.sa_handler = SIG_DFL};
  void *seen = NULL;
  start_puppet();
  tell(MASK); /* closing takes its time */
  for (int tries = 0; tries < 200 && seen == NULL; tries++) {
    pthread_t thread;
    int fd = open_signals(PF_SIGNAL_BIT(SIGUSR2));
    atomic_store(&looks, false);
    atomic_store(&too_late, false);
    must(pthread_create(&thread, NULL, handle_meanwhile, &seen) == 0, "a thread");
    while (!atomic_load(&looks)) {
      sched_yield();
    }
    EXPECT_EQ(pf_signals_close(fd, PF_SIGNAL_BIT(SIGUSR2)), 0);
    atomic_store(&too_late, true);
    pthread_join(thread, &seen);
  }
  EXPECT(seen != NULL);
  sigaction(SIGUSR2, NULL, &now);
  EXPECT(now.sa_handler == on_signal);
  sigaction(SIGUSR2, &standard, NULL);
  tell(RESTORE);
  stop_puppet();
}

int main(void) {
  test_on(PF_BACKEND_MPROTECT, "every thread blocks what a descriptor has, and no longer than that", open_and_close);
  test_on(PF_BACKEND_MPROTECT, "a thread that masked everything for long does what holds when it comes back", back_from_a_long_wait);
#ifdef MAKES_AS_GLIBC
  test_on(PF_BACKEND_MPROTECT, "a thread whose maker is held up blocks what a descriptor has, too", born_late);
#endif
  test_on(PF_BACKEND_MPROTECT, "who handles a signal while its descriptor is closed goes on to handle it", handled_meanwhile);
  return summary();
}
