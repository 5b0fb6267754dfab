/*
 * Pagers: threads whose JavaScript brings pages, from their first order to the last region that they serve. What they are handed, and how, is in queue.c. Any thread,
 * not in a handler, but for the looks at a pager. One lock, of the list of pagers.
 */
#include "queue.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGERS 64

static struct pf_pager pagers[PAGERS];
static pf_lock_t pagers_lock; /* not in a handler */
static _Atomic unsigned descriptors;

int pf_pager_create(pf_pager_t **out, int *event_fd) {
  static uint64_t generation;
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) {
    return -errno;
  }
  pf_lock(&pagers_lock);
  pf_pager_t *pager = NULL;
  for (size_t i = 0; pager == NULL && i < PAGERS; i++) {
    if (atomic_load(&pagers[i].id) == 0 || (pagers[i].stopped && pagers[i].event_fd < 0)) {
      pager = &pagers[i];
    }
  }
  if (pager == NULL) {
    pf_unlock(&pagers_lock);
    close(fd);
    return -EMFILE;
  }
  for (size_t i = 0; i < PF_PAGER_SLOTS; i++) {
    slot_t *slot = &pager->slots[i];
    atomic_store(&slot->word, ((atomic_load(&slot->word) >> 3) + 1) << 3 | FREE);
    slot->told = 0;
    slot->bytes = NULL;
    slot->bytes_len = 0;
  }
  pager->thread = pthread_self();
  pager->tid = (pid_t)syscall(SYS_gettid);
  pager->event_fd = fd;
  pager->stopped = false;
  sched_getaffinity(0, sizeof pager->allowed, &pager->allowed);
  atomic_store(&pager->bound_cpu, -1);
  atomic_store(&pager->stack, 0);
  atomic_store(&pager->asleep, 1);
  atomic_store(&pager->served, 0);
  atomic_store(&pager->answered_ns, 0);
  atomic_store(&pager->hurried, 0);
  pager->list = pager->list_end = NONE;
  pager->passed = 0;
  pager->reason[0] = '\0';
  atomic_store(&pager->dead, 0);
  atomic_store(&pager->id, ++generation * PAGERS + (uint64_t)(pager - pagers));
  pf_unlock(&pagers_lock);
  atomic_fetch_add(&descriptors, 1);
  *out = pager;
  *event_fd = fd;
  return 0;
}

uint64_t pf_pager_id(const pf_pager_t *pager) { return atomic_load(&pager->id); }

pf_pager_t *pf_pager_by_id(uint64_t id) {
  pf_pager_t *pager = &pagers[id % PAGERS];
  return id != 0 && atomic_load(&pager->id) == id ? pager : NULL;
}

bool pf_pager_is_dead(const pf_pager_t *pager) { return atomic_load(&pager->dead) != 0; }
const char *pf_pager_reason(const pf_pager_t *pager) { return pager->reason; }
bool pf_pager_is_mine(const pf_pager_t *pager) { return pthread_equal(pager->thread, pthread_self()); }
void pf_pager_set_owner(pf_pager_t *pager, void *owner) { pager->owner = owner; }
void *pf_pager_owner(const pf_pager_t *pager) { return pager->owner; }
bool pf_pager_is_me(const pf_pager_t *pager, const pf_wait_t *wait) {
  bool mine = wait != NULL && wait->tid != 0 ? wait->tid == pager->tid : pthread_equal(pager->thread, pthread_self());
  return mine && !pf_pager_is_dead(pager);
}
unsigned pf_pager_descriptors(void) { return atomic_load(&descriptors); }

/* The descriptor goes when the thread has stopped serving and no region is left whose threads might write to it: its number may
 * belong to somebody's file the moment after. pagers_lock held. */
static void close_event(pf_pager_t *pager) {
  if (pager->stopped && pager->event_fd >= 0 && atomic_load(&pager->regions) == 0) {
    close(pager->event_fd);
    pager->event_fd = -1;
    atomic_fetch_sub(&descriptors, 1);
  }
}

void pf_pager_closed(pf_pager_t *pager) {
  pf_lock(&pagers_lock);
  pager->stopped = true;
  close_event(pager);
  pf_unlock(&pagers_lock);
}

pf_pager_t *pf_pager_hold_by_id(uint64_t id) {
  pf_lock(&pagers_lock);
  pf_pager_t *pager = pf_pager_by_id(id);
  if (pager != NULL && pf_pager_is_dead(pager)) {
    pager = NULL;
  }
  if (pager != NULL) {
    atomic_fetch_add(&pager->regions, 1);
  }
  pf_unlock(&pagers_lock);
  return pager;
}

void pf_pager_drop(pf_pager_t *pager) {
  pf_lock(&pagers_lock);
  atomic_fetch_sub(&pager->regions, 1);
  close_event(pager);
  pf_unlock(&pagers_lock);
}

bool pf_pager_relax(pf_pager_t *pager) {
  if (atomic_load(&pager->bound_cpu) == -1) {
    return false;
  }
  if (atomic_exchange(&pager->served, 0) != 0) {
    return true;
  }
  atomic_store(&pager->bound_cpu, -1);
  sched_setaffinity(pager->tid, sizeof pager->allowed, &pager->allowed);
  return false;
}

int pf_pager_tid(const pf_pager_t *pager) { return pager->tid; }
