/* sanitizers: address,none */
/*
 * Signals as a descriptor, with many threads that come and go. Not under ThreadSanitizer, which calls handlers later, with a copy of the
 * context, so that a thread's mask cannot be changed from one.
 */
#include "support.h"

#include "process.h"

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
    } else if (worker->kind == 5) {
      pf_sleep_until(pf_now_ns() + MS);
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

static void open_and_close(pf_backend_t backend) {
  (void)backend;
  worker_t workers[THREADS] = {0};
  uint64_t signals = PF_SIGNAL_BIT(SIGUSR2) | PF_SIGNAL_BIT(SIGHUP);
  atomic_store(&stop_threads, false);
  for (int i = 0; i < THREADS; i++) {
    workers[i].kind = i;
    pthread_create(&workers[i].thread, NULL, work, &workers[i]);
  }
  for (int round = 0; round < (SLOW ? 20 : 60); round++) {
    wait_for_masks(workers);
    int fd = pf_signals_open(signals);
    must(fd >= 0, "signals_open");
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

int main(void) {
  test_on(PF_BACKEND_MPROTECT, "every thread blocks what a descriptor has, and no longer than that", open_and_close);
  return summary();
}
