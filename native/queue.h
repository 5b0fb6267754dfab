/* What the files of the hand-off to a pager share (pager.c, queue.c, answer.c, abandon.c): its slots, drawn in queue.c. */
#ifndef PF_QUEUE_H
#define PF_QUEUE_H

#include "engine.h"

#include <pthread.h>
#include <sched.h>

#define FIRST_WRITE_SLOT (PF_PAGER_SLOTS - 32) /* writes use the last ones only: they must not stop the reads that wait for their room */
#define NONE UINT32_MAX

enum { FREE, ASKED, TAKEN, FINISHING, ABANDONED };

typedef struct {
  _Atomic uint64_t word; /* generation << 3 | phase */
  _Atomic(pf_region_t *) region;
  _Atomic uint64_t region_id;
  _Atomic uint64_t page;
  uint64_t deadline_ns;
  _Atomic uint64_t asked_ns, taken_ns;
  _Atomic uint64_t wanted; /* the generation of an order ahead whose page somebody has come to wait for; 0: none */
  _Atomic(pf_ticket_t *) ticket; /* of a flush; NULL: nobody waits for the answer, or by the page's state */
  _Atomic uint32_t access;
  _Atomic uint32_t count; /* pages */
  uint64_t told; /* the pager's thread only: the generation of which it was told that it is wanted */
  uint32_t next;
  uint8_t *bytes; /* the pager's thread only */
  size_t bytes_len;
} slot_t;

struct pf_pager {
  _Atomic uint64_t id; /* index and generation */
  _Atomic uint32_t dead;
  _Atomic uint32_t regions; /* that it serves */
  pthread_t thread;
  pid_t tid;
  int event_fd;
  bool stopped; /* under pagers_lock: its thread serves no more */
  cpu_set_t allowed; /* its CPUs before we bound it to one */
  _Atomic int bound_cpu;
  _Atomic uint32_t asleep;
  _Atomic uint32_t stack; /* index + 1 of the newest asked slot */
  _Atomic uint32_t freed; /* futex: a slot became free */
  _Atomic uint32_t waiters; /* threads asleep on it */
  _Atomic uint64_t answered_ns; /* when it last answered an order */
  _Atomic uint32_t served; /* stopped threads served since the last relax */
  _Atomic uint32_t hurried; /* a slot is wanted that was not */
  uint32_t list, list_end; /* the pager's own, oldest first */
  uint32_t passed;         /* orders that went before the oldest of them */
  char reason[128]; /* of its death */
  void *owner;      /* the binding's */
  slot_t slots[PF_PAGER_SLOTS];
};

/* What an order was about, taken out of its slot: the slot is the caller's no more. */
typedef struct {
  pf_region_t *region;
  uint64_t page;
  uint32_t count, access;
  pf_ticket_t *ticket;
} order_t;

static inline bool move_slot(slot_t *slot, unsigned from, unsigned to, uint64_t *word) {
  return (*word & 7) == from && atomic_compare_exchange_strong(&slot->word, word, (*word & ~7ULL) | to);
}

static inline uint64_t generation_of(uint64_t word) { return word >> 3; }

static inline order_t order_in(const slot_t *slot) {
  return (order_t){.region = slot->region, .page = slot->page, .count = slot->count, .access = slot->access, .ticket = slot->ticket};
}

/* Makes the slot FREE; whoever waits for one looks again. */
void pf__slot_free(pf_pager_t *pager, slot_t *slot);
/* After asking: whoever killed the pager or closed the region may have looked before our slot was there. */
void pf__queue_look_again(pf_pager_t *pager, pf_region_t *region);
/* The order cannot be carried out: whatever it was about is told so, and is nobody's work any more. The region is still entered. `forgotten`: for a reason that
 * is not the store's. */
void pf__order_failed(const order_t *order, pf_why_t why, const char *message, const char *cause, bool forgotten);

#endif
