/*
 * See fetch_queue.h: any thread, under the lock of peers_fetch.c. A line is there as long as something of its segment waits or is at work.
 */
#include "fetch_queue.h"

#include <stddef.h>
#include <stdlib.h>

#define HEADS 256

struct pf_fetch_line {
  uint64_t segment;
  pf_fetch_line_t *next;  /* of the same head */
  pf_link_t link, guests; /* link: in `among` */
  pf_link_t *among;       /* fresh, going, or NULL */
  unsigned at_work;
};

static pf_fetch_line_t *heads[HEADS];
static pf_link_t fresh = {&fresh, &fresh}, going = {&going, &going};
static unsigned at_work;

/* --- deadlines: a heap, the earliest first ---------------------------------------------------------------------------------- */

static pf_fetch_t **heap;
static size_t heap_count, heap_room;

static void heap_set(size_t at, pf_fetch_t *fetch) {
  heap[at] = fetch;
  fetch->at = at;
}

static void heap_rise(size_t at) {
  pf_fetch_t *fetch = heap[at];
  for (; at > 0 && heap[(at - 1) / 2]->deadline_ns > fetch->deadline_ns; at = (at - 1) / 2) {
    heap_set(at, heap[(at - 1) / 2]);
  }
  heap_set(at, fetch);
}

static void heap_sink(size_t at) {
  pf_fetch_t *fetch = heap[at];
  for (;;) {
    size_t below = 2 * at + 1;
    if (below + 1 < heap_count && heap[below + 1]->deadline_ns < heap[below]->deadline_ns) {
      below++;
    }
    if (below >= heap_count || heap[below]->deadline_ns >= fetch->deadline_ns) {
      break;
    }
    heap_set(at, heap[below]);
    at = below;
  }
  heap_set(at, fetch);
}

static bool heap_add(pf_fetch_t *fetch) {
  if (heap_count == heap_room) {
    size_t room = heap_room == 0 ? 64 : heap_room * 2;
    pf_fetch_t **grown = realloc(heap, room * sizeof *grown);
    if (grown == NULL) {
      return false;
    }
    heap = grown;
    heap_room = room;
  }
  heap_set(heap_count, fetch);
  heap_rise(heap_count++);
  return true;
}

static void heap_remove(const pf_fetch_t *fetch) {
  size_t at = fetch->at;
  pf_fetch_t *last = heap[--heap_count];
  if (last != fetch) {
    heap_set(at, last);
    heap_rise(at);
    heap_sink(last->at);
  }
}

/* --- lines ------------------------------------------------------------------------------------------------------------------- */

static pf_fetch_line_t **head_of(uint64_t segment) { return &heads[segment * 0x9E3779B97F4A7C15ULL >> 56]; }
_Static_assert(HEADS == 256, "head_of gives eight bits");

static pf_fetch_line_t *line_of(uint64_t segment) {
  pf_fetch_line_t **head = head_of(segment), *line = *head;
  while (line != NULL && line->segment != segment) {
    line = line->next;
  }
  if (line == NULL && (line = calloc(1, sizeof *line)) != NULL) {
    line->segment = segment;
    line->next = *head;
    pf_link_begin(&line->guests);
    *head = line;
  }
  return line;
}

static void end_line(pf_fetch_line_t *line) {
  pf_fetch_line_t **at = head_of(line->segment);
  while (*at != line) {
    at = &(*at)->next;
  }
  *at = line->next;
  free(line);
}

/* To where it belongs now; its place there is the last one, and it keeps the one it has. One that has nothing any more is freed. */
static void place(pf_fetch_line_t *line) {
  bool waits = !pf_link_alone(&line->guests);
  pf_link_t *belongs = !waits || line->at_work >= PF_FETCH_EACH ? NULL : line->at_work == 0 ? &fresh : &going;
  if (belongs != line->among) {
    if (line->among != NULL) {
      pf_link_remove(&line->link);
    }
    if (belongs != NULL) {
      pf_link_append(belongs, &line->link);
    }
    line->among = belongs;
  }
  if (!waits && line->at_work == 0) {
    end_line(line);
  }
}

/* --- faults ------------------------------------------------------------------------------------------------------------------- */

bool pf_fetch_add(pf_fetch_t *fetch) {
  pf_waiting_t *waiting = &fetch->peer->waiting;
  pf_fetch_line_t *line = line_of(pf_snapshot_segment(fetch->peer->snapshot));
  if (line == NULL) {
    return false;
  }
  if (!heap_add(fetch)) {
    place(line);
    return false;
  }
  fetch->line = line;
  if (waiting->faults.next == NULL) {
    pf_link_begin(&waiting->faults);
  }
  if (pf_link_alone(&waiting->faults)) {
    pf_link_append(&line->guests, &waiting->link);
  }
  pf_link_append(&waiting->faults, &fetch->link);
  place(line);
  return true;
}

/* Waits no more. The line is to be placed. */
static void unqueue(pf_fetch_t *fetch) {
  pf_waiting_t *waiting = &fetch->peer->waiting;
  heap_remove(fetch);
  pf_link_remove(&fetch->link);
  if (pf_link_alone(&waiting->faults)) {
    pf_link_remove(&waiting->link);
  }
}

static pf_link_t *next_line(void) {
  if (!pf_link_alone(&fresh) && at_work < PF_FETCH_MAX) {
    return fresh.next;
  }
  return !pf_link_alone(&going) && at_work < PF_FETCH_MAX / 2 ? going.next : NULL;
}

bool pf_fetch_may(void) { return next_line() != NULL; }

pf_fetch_t *pf_fetch_take(void) {
  pf_link_t *next = next_line();
  if (next == NULL) {
    return NULL;
  }
  pf_fetch_line_t *line = PF_LINKED(next, pf_fetch_line_t, link);
  pf_waiting_t *guest = PF_LINKED(line->guests.next, pf_waiting_t, link);
  pf_fetch_t *fetch = PF_LINKED(guest->faults.next, pf_fetch_t, link);
  unqueue(fetch);
  if (!pf_link_alone(&guest->faults)) { /* its place is the last one */
    pf_link_remove(&guest->link);
    pf_link_append(&line->guests, &guest->link);
  }
  pf_link_remove(&line->link); /* and the line's */
  line->among = NULL;
  line->at_work++;
  at_work++;
  place(line);
  return fetch;
}

void pf_fetch_done(const pf_fetch_t *fetch) {
  fetch->line->at_work--;
  at_work--;
  place(fetch->line);
}

unsigned pf_fetch_at_work(void) { return at_work; }

uint64_t pf_fetch_deadline(void) { return heap_count == 0 ? UINT64_MAX : heap[0]->deadline_ns; }

static pf_fetch_t *take_off(pf_fetch_t *fetch) {
  unqueue(fetch);
  place(fetch->line);
  return fetch;
}

pf_fetch_t *pf_fetch_take_late(uint64_t now_ns) { return heap_count == 0 || heap[0]->deadline_ns > now_ns ? NULL : take_off(heap[0]); }

pf_fetch_t *pf_fetch_take_of(pf_peer_t *peer) {
  return pf_link_alone(&peer->waiting.faults) ? NULL : take_off(PF_LINKED(peer->waiting.faults.next, pf_fetch_t, link));
}
