/*
 * What a budget is, for the files that make it one: ring.c (its queues), budget.c (its members and what is charged), evict.c (who goes).
 * The lock is held for a bounded number of steps, never while the kernel is called.
 */
#ifndef PF_BUDGET_H
#define PF_BUDGET_H

#include "engine.h"

#define PF_STAGE_BATCH 4 /* pages staged in one step */

/* A queue of page numbers. */
typedef struct {
  uint32_t *words;
  size_t capacity, head, used; /* words */
  size_t pages;                /* in the entries */
  unsigned last;               /* words of the newest entry */
} pf_ring_t;

typedef struct {
  uint32_t first;
  uint64_t end;
  pf_region_t *region;
} pf_member_t;

struct pf_budget {
  uint64_t id;
  pf_lock_t lock;
  uint64_t limit;
  _Atomic uint64_t used;     /* bytes of pages: being read, present, staged */
  _Atomic int64_t overhead;  /* bytes of our own */
  _Atomic uint64_t staged;   /* bytes of `used` that are staged */
  _Atomic uint64_t pinned;
  _Atomic uint32_t loading;  /* threads that load a page now */
  _Atomic uint32_t crowd;    /* the most there ever were */
  _Atomic uint64_t largest;  /* page size among the members */
  _Atomic uint32_t freed;    /* futex: something was given back */
  _Atomic uint32_t waiters;  /* threads asleep on it */
  _Atomic int write_errno;   /* of the last page that could not be written back */
  _Atomic uint32_t write_failures;
  pf_ring_t fifo, stage;
  _Atomic bool queue_full;   /* of fifo: more small pages than the limit, where the least that a budget allows is some large ones */
  pf_member_t *members;         /* by number */
  size_t member_count, member_capacity;
  uint32_t holders;          /* under directory_lock */
};

/* --- ring.c: with the budget's lock held ------------------------------------------------------------------------------------ */

int pf__ring_make(pf_ring_t *ring, size_t capacity); /* words; not in a handler, no lock */
void pf__ring_free(pf_ring_t *ring);
bool pf__ring_has_room(const pf_ring_t *ring, size_t words);
void pf__ring_push(pf_ring_t *ring, uint32_t number);
/* The oldest page; the ring is not empty. */
uint32_t pf__ring_pop(pf_ring_t *ring);

/* --- budget.c ----------------------------------------------------------------------------------------------------------------- */

/* The region that a number belongs to, and its page; NULL: none any more. Lock held. */
pf_region_t *pf__member_of(const pf_budget_t *budget, uint32_t number, uint64_t *page);
/* The queue's fill is another one. Lock held. */
void pf__queue_changed(pf_budget_t *budget);
/* Takes out the entries that no longer mean anything. `forget`: also those of this region. Lock held. */
void pf__ring_compact(pf_budget_t *budget, pf_ring_t *ring, unsigned state, const pf_region_t *forget);
/* How many pages the threads need to go on. */
uint64_t pf__pages_needed(const pf_budget_t *budget);

/* --- evict.c ------------------------------------------------------------------------------------------------------------------ */

/* Frees about `want` bytes of the `room` for pages; 0 when nothing can go at the moment. `dear`: the region that needs it is slow to load. */
uint64_t pf__make_room(pf_budget_t *budget, uint64_t want, bool dear, uint64_t room);
bool pf__is_dear(const pf_budget_t *budget, const pf_region_t *region);

#endif
