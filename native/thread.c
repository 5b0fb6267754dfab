/* The table of threads: see thread.h. A set is one cache line of keys; a place is only ever written by its own thread. */
#include "thread.h"

#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SETS 128
#define WAYS 8

static _Alignas(64) _Atomic uintptr_t keys[SETS][WAYS];
static pf_thread_t threads[SETS][WAYS];

static uintptr_t own_key(void) { return (uintptr_t)pthread_self(); }

/* Thread descriptors lie at least a page apart. */
static size_t set_of(uintptr_t key) { return (size_t)((key >> 12) * 0x9E3779B97F4A7C15ULL >> 57); }

pf_thread_t *pf_thread_find(void) {
  uintptr_t key = own_key();
  size_t home = set_of(key);
  for (size_t tries = 0; tries < SETS; tries++) {
    size_t set = (home + tries) % SETS;
    bool full = true;
    for (size_t way = 0; way < WAYS; way++) {
      uintptr_t seen = atomic_load_explicit(&keys[set][way], memory_order_relaxed);
      if (seen == key) {
        return &threads[set][way];
      }
      full = full && seen != 0;
    }
    /* A thread goes past its home only when that is full; the set may have emptied since, so a few more are looked at. */
    if (!full && tries >= 2) {
      return NULL;
    }
  }
  return NULL;
}

pf_thread_t *pf_thread_enter(void) {
  pf_thread_t *known = pf_thread_find();
  if (known != NULL) {
    return known;
  }
  uintptr_t key = own_key();
  size_t home = set_of(key);
  for (size_t tries = 0; tries <= 2; tries++) {
    for (size_t way = 0; way < WAYS; way++) {
      size_t set = (home + tries) % SETS;
      uintptr_t empty = 0;
      if (atomic_load_explicit(&keys[set][way], memory_order_relaxed) == 0 && atomic_compare_exchange_strong(&keys[set][way], &empty, key)) {
        memset(&threads[set][way], 0, sizeof threads[set][way]);
        return &threads[set][way];
      }
    }
  }
  return NULL;
}

pf_thread_t *pf_thread_attempting(void) {
  pf_thread_t *thread = pf_thread_find();
  if (thread == NULL || thread->attempts == 0) {
    return NULL;
  }
  if (thread->tid == (pid_t)syscall(SYS_gettid)) {
    return thread;
  }
  uint32_t handlers = thread->handlers; /* those are this thread's: nobody ends inside a handler */
  memset(thread, 0, sizeof *thread);
  thread->handlers = handlers;
  return NULL;
}

void pf_thread_leave(pf_thread_t *thread) {
  if (thread->handlers != 0 || thread->attempts != 0 || thread->step.count != 0) {
    return;
  }
  size_t index = (size_t)(thread - &threads[0][0]);
  atomic_store_explicit(&keys[index / WAYS][index % WAYS], 0, memory_order_release);
}
