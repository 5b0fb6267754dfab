/* The table of threads: see thread.h. A set is one cache line of keys; a place is only ever written by its own thread. What it waits for may be read by any. */
#include "task.h"
#include "thread.h"

#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WAYS 8
#define SETS (PF_THREADS_MAX / WAYS)

static _Alignas(64) _Atomic uintptr_t keys[SETS][WAYS];
static pf_thread_t threads[SETS][WAYS];

static uintptr_t own_key(void) { return (uintptr_t)pthread_self(); }

/* Thread descriptors lie at least a page apart. */
static size_t set_of(uintptr_t key) { return (size_t)((key >> 12) * 0x9E3779B97F4A7C15ULL >> 57); }
_Static_assert(SETS == 1 << (64 - 57), "set_of gives as many bits");

size_t pf_thread_index(const pf_thread_t *thread) { return (size_t)(thread - &threads[0][0]); }

/* What an earlier thread may have left. The rest is nobody's when a place is given back. */
static void forget(pf_thread_t *thread) { memset(thread, 0, offsetof(pf_thread_t, handlers)); }

/* The C library works out the clock of a thread from its number, which the kernel defines: ~number << 3 | kind. A system call would take longer than all the
 * rest of what is noted here. */
int pf_thread_tid(void) {
  clockid_t clock;
  return pthread_getcpuclockid(pthread_self(), &clock) == 0 ? (int)~(clock >> 3) : 0;
}

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
        forget(&threads[set][way]);
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
  forget(thread); /* but not its handlers: those are this thread's, nobody ends inside one */
  return NULL;
}

void pf_thread_leave(pf_thread_t *thread) {
  if (thread->handlers != 0 || thread->servings != 0 || thread->attempts != 0 || thread->step.count != 0) {
    return;
  }
  size_t index = pf_thread_index(thread);
  atomic_store_explicit(&keys[index / WAYS][index % WAYS], 0, memory_order_release);
}

/* --- what a thread waits for ------------------------------------------------------------------------------------------------- */

uint64_t pf_thread_serving(pf_thread_t *thread, uint64_t region_id, uint64_t page, int tid) {
  uint64_t now = pf_now_ns();
  if (thread->servings++ == 0) {
    atomic_store_explicit(&thread->serving_region, region_id, memory_order_release); /* after the 0 of the last time */
    atomic_store_explicit(&thread->serving_page, page, memory_order_release);
    atomic_store_explicit(&thread->serving_tid, tid, memory_order_release);
    atomic_store_explicit(&thread->serving_by, thread->server != NULL ? pf_thread_tid() : tid, memory_order_release);
    atomic_store_explicit(&thread->doing, PF_DOES_LOOK, memory_order_release);
    atomic_store_explicit(&thread->serving_since_ns, now, memory_order_release);
  }
  return now;
}

void pf_thread_served(pf_thread_t *thread) {
  if (--thread->servings == 0) {
    atomic_store_explicit(&thread->serving_since_ns, 0, memory_order_relaxed);
  }
}

pf_thread_t *pf_thread_begin_wait(const pf_region_t *region, uint64_t page, pf_wait_t *wait) {
  pf_thread_t *thread = pf_thread_enter();
  if (thread != NULL) {
    pf_thread_serving(thread, atomic_load_explicit(&region->id, memory_order_relaxed), page, pf_thread_tid());
    wait->doing = &thread->doing;
  }
  return thread;
}

void pf_thread_end_wait(pf_thread_t *thread) {
  if (thread != NULL) {
    pf_thread_served(thread);
    pf_thread_leave(thread);
  }
}

uint32_t pf_thread_waiting(void) {
  int tids[64];
  uint32_t count = 0;
  pf_serving_t serving;
  for (size_t i = 0; i < PF_THREADS_MAX && count < 64; i++) {
    uint32_t at = 0;
    if (pf_thread_waits(i, &serving)) {
      while (at < count && tids[at] != serving.tid) {
        at++;
      }
      tids[at] = serving.tid;
      count += at == count;
    }
  }
  return count < 64 ? count : PF_THREADS_MAX;
}

bool pf_thread_waits(size_t index, pf_serving_t *out) {
  if (atomic_load_explicit(&keys[index / WAYS][index % WAYS], memory_order_relaxed) == 0) {
    return false;
  }
  pf_thread_t *thread = &threads[index / WAYS][index % WAYS];
  uint64_t since = atomic_load_explicit(&thread->serving_since_ns, memory_order_acquire);
  *out = (pf_serving_t){
      .region = atomic_load_explicit(&thread->serving_region, memory_order_acquire),
      .page = atomic_load_explicit(&thread->serving_page, memory_order_acquire),
      .tid = atomic_load_explicit(&thread->serving_tid, memory_order_acquire),
      .by = atomic_load_explicit(&thread->serving_by, memory_order_acquire),
      .doing = (pf_doing_t)atomic_load_explicit(&thread->doing, memory_order_acquire),
      .since_ns = since,
  };
  return since != 0 && atomic_load_explicit(&thread->serving_since_ns, memory_order_relaxed) == since;
}

bool pf_thread_in_call(int tid) {
  char text[32];
  ssize_t len = pf_task_read(tid, "syscall", text, sizeof text);
  return len < 0 ? !pf_task_has_ended(tid) : text[0] >= '0' && text[0] <= '9'; /* else "-1 ...", "running" */
}

int pf_thread_start_detached(void *(*run)(void *data), void *data, size_t stack) {
  sigset_t before;
  pthread_attr_t attr;
  pthread_t thread;
  pthread_attr_init(&attr);
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  if (stack != 0) {
    pthread_attr_setstacksize(&attr, stack);
  }
  pf_mask_signals(&before); /* a thread has the mask of the one that made it */
  int err = pthread_create(&thread, &attr, run, data);
  pf_restore_signals(&before);
  pthread_attr_destroy(&attr);
  return -err;
}
