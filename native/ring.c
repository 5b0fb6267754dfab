/*
 * The queues of a budget: page numbers, first in, first out.
 *
 * An entry is one word, a page; or, for neighbours that came one after the other, two:
 *
 *     | 0 number |        | 1 number of the first | how many |
 *
 * so that a page costs four bytes at most, and a page of a densely read range next to nothing.
 *
 * Any thread, in a handler too, with the budget's lock held.
 */
#include "budget.h"

#define RUN 0x80000000u

int pf__ring_make(pf_ring_t *ring, size_t capacity) {
  void *words;
  int err = pf_mem_reserve(capacity * sizeof *ring->words, "pagefault queue", &words);
  if (err == 0) {
    *ring = (pf_ring_t){.words = words, .capacity = capacity};
  }
  return err;
}

void pf__ring_free(pf_ring_t *ring) {
  if (ring->words != NULL) {
    pf_mem_unmap(ring->words, ring->capacity * sizeof *ring->words);
  }
}

static uint32_t *word_at(pf_ring_t *ring, size_t index) { return &ring->words[(ring->head + index) % ring->capacity]; }

/* Half is kept free: compacting splits runs, and puts what stays behind what it has not looked at yet. */
bool pf__ring_has_room(const pf_ring_t *ring, size_t words) { return ring->used + words <= ring->capacity / 2; }

void pf__ring_push(pf_ring_t *ring, uint32_t number) {
  ring->pages++;
  if (ring->last == 2) {
    uint32_t first = *word_at(ring, ring->used - 2) & ~RUN;
    uint32_t *count = word_at(ring, ring->used - 1);
    if (first + *count == number) {
      (*count)++;
      return;
    }
  } else if (ring->last == 1 && *word_at(ring, ring->used - 1) + 1 == number) {
    *word_at(ring, ring->used - 1) |= RUN;
    *word_at(ring, ring->used++) = 2;
    ring->last = 2;
    return;
  }
  *word_at(ring, ring->used++) = number;
  ring->last = 1;
}

uint32_t pf__ring_pop(pf_ring_t *ring) {
  uint32_t *word = word_at(ring, 0);
  uint32_t number = *word & ~RUN;
  size_t done = 1;
  ring->pages--;
  if (*word & RUN) {
    uint32_t *count = word_at(ring, 1);
    done = --*count == 0 ? 2 : 0;
    *word = (number + 1) | RUN;
  }
  ring->head = (ring->head + done) % ring->capacity;
  ring->used -= done;
  if (ring->used == 0) {
    ring->last = 0;
    ring->head = 0; /* the words in use stay the same few */
  }
  return number;
}
