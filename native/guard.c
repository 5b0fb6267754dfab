/*
 * A thread that looks once a second, or as often as a segment wants (`pollIntervalMs`), while there are regions, whether our signal handlers are still in place, and whether a page is late (watchdog.c): then,
 * while somebody waits, also in between. A JavaScript timer would not do: when
 * somebody else's handler got a fault of ours and returned, the thread runs the same instruction again and again, and it may be the one
 * whose timer it is. The thread has every signal masked, touches nothing of the user's, and ends when there are no regions any more.
 */
#include "service.h"
#include "thread.h"

#define STACK 131072
#define INTERVAL_NS 1000000000ULL /* where nobody says; and while there is memory to be freed */

static _Atomic uint64_t wanted = UINT64_MAX; /* the smallest interval that anybody wants */
static _Atomic bool ended;                   /* who wanted it may be gone */
static pf_lock_t asking;                     /* taken before the registry's */
static pf_lock_t lock;
static bool running;
static _Atomic uint32_t kicks; /* futex */

static bool want(uint64_t ns) {
  uint64_t least = atomic_load(&wanted);
  while (ns < least) {
    if (atomic_compare_exchange_weak(&wanted, &least, ns)) {
      return true;
    }
  }
  return false;
}

void pf_guard_interval(uint64_t ns) {
  if (want(ns)) {
    pf_guard_kick();
  }
}

void pf_guard_interval_ended(uint64_t ns) {
  if (ns <= atomic_load(&wanted)) {
    atomic_store(&ended, true);
  }
  if (ns > INTERVAL_NS) { /* there may be memory to be freed before the next look */
    pf_guard_kick();
  }
}

uint64_t pf_guard_interval_now(void) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&asking); /* else a second one who asks would find it between the two steps */
  if (atomic_exchange(&ended, false)) {
    atomic_store(&wanted, UINT64_MAX); /* before looking: who comes meanwhile says so */
    want(pf_region_least_poll());
  }
  uint64_t least = atomic_load(&wanted);
  pf_unlock(&asking);
  pf_restore_signals(&before);
  return least == UINT64_MAX ? INTERVAL_NS : least;
}

static uint64_t next_look(void) {
  uint64_t interval = pf_guard_interval_now();
  return pf_now_ns() + (interval > INTERVAL_NS && pf_region_any_closed() ? INTERVAL_NS : interval);
}

static void *watch(void *kicks_before) {
  uint32_t seen = (uint32_t)(uintptr_t)kicks_before;
  for (uint64_t due = pf_exit_look();;) {
    uint64_t next = next_look();
    pf_futex_wait(&kicks, seen, next < due ? next : due);
    seen = atomic_load(&kicks); /* before looking: who begins to wait from here on is seen the next time */
    pf_lock(&lock);
    if (pf_region_count() == 0) {
      running = false;
      pf_unlock(&lock);
      return NULL;
    }
    pf_unlock(&lock);
    pf_signal_check();
    pf_service_look();
    pf_region_reap(); /* closed regions whose last user has left */
    due = pf_watchdog_look();
    uint64_t exit_due = pf_exit_look();
    due = exit_due < due ? exit_due : due;
  }
}

void pf_guard_kick(void) {
  atomic_fetch_add(&kicks, 1);
  pf_futex_wake_one(&kicks);
}

void pf_guard_start(void) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&lock);
  if (!running) {
    pf_watchdog_start();
    void *kicks_before = (void *)(uintptr_t)atomic_load(&kicks); /* whoever makes the first region has just looked at the handlers */
    running = pf_thread_start_detached(watch, kicks_before, STACK) == 0; /* without it the JavaScript timers still look */
  }
  pf_unlock(&lock);
  pf_restore_signals(&before);
}
