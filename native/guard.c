/*
 * A thread that looks once a second, while there are regions, whether our signal handlers are still in place. A JavaScript timer would not do: when
 * somebody else's handler got a fault of ours and returned, the thread runs the same instruction again and again, and it may be the one
 * whose timer it is. The thread has every signal masked, touches nothing of the user's, and ends when there are no regions any more.
 */
#include "engine.h"

#include <pthread.h>

#define INTERVAL_NS 1000000000ULL

static pf_lock_t lock;
static bool running;
static _Atomic uint32_t nobody_wakes_it;

static void *watch(void *unused) {
  (void)unused;
  for (;;) {
    pf_futex_wait(&nobody_wakes_it, 0, pf_now_ns() + INTERVAL_NS);
    pf_lock(&lock);
    if (pf_region_count() == 0) {
      running = false;
      pf_unlock(&lock);
      return NULL;
    }
    pf_unlock(&lock);
    pf_signal_check();
    pf_region_reap(); /* closed regions whose last user has left */
  }
}

void pf_guard_start(void) {
  sigset_t before;
  pthread_attr_t attr;
  pthread_t thread;
  pf_mask_signals(&before);
  pf_lock(&lock);
  if (!running) {
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 131072);
    running = pthread_create(&thread, &attr, watch, NULL) == 0; /* without it the JavaScript timers still look */
    pthread_attr_destroy(&attr);
  }
  pf_unlock(&lock);
  pf_restore_signals(&before);
}
