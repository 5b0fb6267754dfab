/*
 * Forked children. A child has the process's memory without its threads, and the memory of segments is kept out of it (MADV_DONTFORK), because the
 * kernel would let it read zeroes there: userfaultfds do not follow a fork. So the child has neither pages nor anybody who could bring them, and a
 * touch ends it with a report. JavaScript does not run there at all: V8 keeps its own heap out of forks, too. Nothing here waits, takes a lock, or
 * believes a table that a thread of the parent may have been changing in the moment of the fork.
 *
 * What the child must not do either is to put memory of its own where a segment was: a pointer to the segment would find zeroes there. After fork(3)
 * the ranges are taken and inaccessible; a child of clone(2) that was called past the C library has holes there, which is as good until it maps memory.
 *
 * A child that shares the memory (vfork, posix_spawn) is no forked one: it is served as the thread is whose stack it runs on.
 */
#include "report.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000 /* 4.17; before, an address that is only a hint */
#endif

static pf_lock_t lock; /* not in a handler */
static _Atomic(_Atomic uint32_t *) alive; /* what it points to reads 0 in a forked child */

/* In the child, between fork and whatever comes next; only system calls. */
static void take_ranges(void) {
  pf_inherited_t was;
  for (size_t i = 0; pf_region_inherited(i, &was); i++) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    void *taken = was.start < was.end ? mmap((void *)was.start, was.end - was.start, PROT_NONE, flags, -1, 0) : MAP_FAILED;
    if (taken != MAP_FAILED && taken != (void *)was.start) {
      munmap(taken, was.end - was.start);
    }
  }
}

int pf_fork_start(void) {
  int err = 0;
  if (atomic_load(&alive) != NULL) {
    return 0; /* without the lock, which in a forked child may be held for ever */
  }
  pf_lock(&lock);
  if (atomic_load(&alive) == NULL) {
    _Atomic uint32_t *word;
    err = pf_mem_wiped_on_fork(&word);
    if (err == 0) {
      err = -pthread_atfork(NULL, NULL, take_ranges);
    }
    if (err == 0) {
      atomic_store(word, 1);
      atomic_store(&alive, word);
    }
  }
  pf_unlock(&lock);
  return err;
}

bool pf_forked(void) {
  _Atomic uint32_t *word = atomic_load_explicit(&alive, memory_order_acquire);
  return word != NULL && atomic_load_explicit(word, memory_order_relaxed) == 0;
}

bool pf_forked_touch(uintptr_t addr) {
  pf_inherited_t was;
  for (size_t i = 0; pf_region_inherited(i, &was); i++) {
    if (addr >= was.start && addr < was.end) {
      pf_report_forked(was.name, addr, addr - was.start);
      return true;
    }
  }
  return false;
}
