/*
 * See peer_area.h. Lock of the peer held, by whichever thread of peers.c has it.
 */
#include "peer_area.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool pf_grow(void **list, size_t count, size_t *room, size_t element) {
  if (count < *room) {
    return true;
  }
  size_t wanted = *room == 0 ? 16 : *room * 2;
  void *grown = realloc(*list, wanted * element);
  if (grown != NULL) {
    *list = grown;
    *room = wanted;
  }
  return grown != NULL;
}

/* --- where a page is ------------------------------------------------------------------------------------------------------ */

const pf_area_t *pf_area_at(const pf_peer_t *peer, uint64_t address) {
  size_t low = 0, high = peer->area_count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (peer->areas[middle].end <= address) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < peer->area_count && peer->areas[low].start <= address ? &peer->areas[low] : NULL;
}

bool pf_area_has_grown(const pf_peer_t *peer, uint64_t address) {
  size_t i = peer->area_count;
  while (i > 0 && peer->areas[i - 1].start > address) {
    i--;
  }
  return i > 0 && peer->areas[i - 1].moved && peer->areas[i - 1].end <= address;
}

void pf_peer_count_state(pf_peer_t *peer, uint8_t state, uint64_t sign) {
  peer->numbers.present += state == PF_PAGE_PRESENT || state == PF_PAGE_AHEAD ? sign : 0;
  peer->numbers.ahead += state == PF_PAGE_AHEAD ? sign : 0;
}

void pf_peer_set_state(pf_peer_t *peer, uint64_t page, pf_peer_state_t state) {
  pf_peer_count_state(peer, peer->states[page], (uint64_t)-1);
  pf_peer_count_state(peer, (uint8_t)state, 1);
  peer->states[page] = (uint8_t)state;
}

bool pf_peer_find_offset(const pf_peer_t *peer, uint64_t offset, uint64_t *address, uint64_t *page) {
  for (size_t i = 0; i < peer->area_count; i++) {
    const pf_area_t *area = &peer->areas[i];
    if (offset >= area->offset && offset - area->offset < area->end - area->start) {
      *address = area->start + (offset - area->offset);
      *page = pf_area_page(peer, area, *address);
      return true;
    }
  }
  return false;
}

bool pf_peer_find_page(const pf_peer_t *peer, uint64_t page, uint64_t *address, uint64_t *offset) {
  for (size_t i = 0; i < peer->area_count; i++) {
    const pf_area_t *area = &peer->areas[i];
    if (page >= area->first && page - area->first < (area->end - area->start) >> peer->page_shift) {
      *address = area->start + ((page - area->first) << peer->page_shift);
      *offset = pf_area_offset(area, *address);
      return true;
    }
  }
  return false;
}

static int by_start(const void *left, const void *right) {
  const pf_area_t *a = left, *b = right;
  return a->start < b->start ? -1 : a->start > b->start;
}

int pf_peer_take_areas(pf_peer_t *peer, const pf_peer_options_t *options) {
  peer->areas = malloc((options->area_count + 1) * sizeof *peer->areas);
  if (peer->areas == NULL) {
    return -ENOMEM;
  }
  peer->area_count = options->area_count;
  peer->area_room = options->area_count + 1;
  memcpy(peer->areas, options->areas, options->area_count * sizeof *peer->areas);
  for (size_t i = 0; i < peer->area_count; i++) { /* the states are in the order in which the areas were told */
    pf_area_t *area = &peer->areas[i];
    if (area->end <= area->start || ((area->start | area->end | area->offset) & (pf_peer_page_size(peer) - 1)) != 0) {
      return -EINVAL;
    }
    area->first = peer->pages;
    peer->pages += (area->end - area->start) >> peer->page_shift;
  }
  qsort(peer->areas, peer->area_count, sizeof *peer->areas, by_start);
  for (size_t i = 1; i < peer->area_count; i++) {
    if (peer->areas[i].start < peer->areas[i - 1].end) {
      return -EINVAL;
    }
  }
  return peer->pages == 0 ? -EINVAL : 0;
}

/* --- events --------------------------------------------------------------------------------------------------------------- */

/* [start, end) is no longer where it was: areas that lie in it go, or lose a part. */
static void cut(pf_peer_t *peer, uint64_t start, uint64_t end) {
  for (size_t i = 0; i < peer->area_count; i++) {
    pf_area_t *area = &peer->areas[i], behind = *area;
    if (area->end <= start || area->start >= end) {
      continue;
    }
    bool head = area->start < start, tail = area->end > end;
    if (tail) {
      behind.first = pf_area_page(peer, area, end);
      behind.offset = pf_area_offset(area, end);
      behind.start = end;
    }
    if (head && tail) { /* room was made for it: see pf_peer_apply */
      memmove(area + 2, area + 1, (peer->area_count - i - 1) * sizeof *area);
      peer->area_count++;
      area->end = start;
      area[1] = behind;
      return;
    }
    if (head) {
      area->end = start;
    } else if (tail) {
      *area = behind;
    } else {
      memmove(area, area + 1, (peer->area_count - i - 1) * sizeof *area);
      peer->area_count--;
      i--;
    }
  }
}

/* An area that has `at` in it ends there, and another one begins. */
static void split(pf_peer_t *peer, uint64_t at) {
  for (size_t i = 0; i < peer->area_count; i++) {
    pf_area_t *area = &peer->areas[i];
    if (area->start < at && at < area->end) {
      memmove(area + 1, area, (peer->area_count++ - i) * sizeof *area);
      area->end = at;
      area[1] = (pf_area_t){at, area[1].end, pf_area_offset(area, at), pf_area_page(peer, area, at), area->moved};
      return;
    }
  }
}

/* mremap: the pages go with it, also those that are missing, however many areas they are. */
static void remap(pf_peer_t *peer, uint64_t from, uint64_t to, uint64_t length) {
  cut(peer, to, to + length);
  split(peer, from);
  split(peer, from + length);
  for (size_t i = 0; i < peer->area_count; i++) {
    pf_area_t *area = &peer->areas[i];
    if (area->start >= from && area->end <= from + length) {
      *area = (pf_area_t){area->start - from + to, area->end - from + to, area->offset, area->first, true};
    }
  }
  qsort(peer->areas, peer->area_count, sizeof *peer->areas, by_start);
}

/* A page that is on its way is to come in any case. */
static void forget(pf_peer_t *peer, uint64_t page) {
  uint8_t state = peer->states[page];
  if (state != PF_PAGE_ABSENT && state != PF_PAGE_FETCHING) {
    pf_peer_set_state(peer, page, PF_PAGE_ABSENT);
    peer->numbers.removed++;
  }
}

/* Given back: what is touched there from now on is new memory, or the snapshot's once more. */
static void give_back(pf_peer_t *peer, uint64_t start, uint64_t end) {
  for (size_t i = 0; i < peer->area_count; i++) {
    const pf_area_t *area = &peer->areas[i];
    uint64_t from = area->start > start ? area->start : start, until = area->end < end ? area->end : end;
    for (uint64_t at = from; at < until; at += pf_peer_page_size(peer)) {
      uint64_t page = pf_area_page(peer, area, at);
      bool failed = peer->states[page] == PF_PAGE_FAILED;
      if (peer->again) {
        forget(peer, page);
      } else {
        pf_peer_set_state(peer, page, PF_PAGE_REMOVED);
        peer->numbers.removed++;
      }
      if (failed) {
        pf_peer_wake(peer, at, pf_peer_page_size(peer)); /* no retry comes to whoever waits for one */
      }
    }
  }
}

/* Events of which each may add areas: one where it cuts the middle out of one, and two at the ends of what moves. */
static bool make_room(pf_peer_t *peer, size_t more) {
  while (peer->area_count + more > peer->area_room) {
    if (!pf_grow((void **)&peer->areas, peer->area_room, &peer->area_room, sizeof *peer->areas)) {
      return false;
    }
  }
  return true;
}

/* The child's memory comes with a descriptor of its own, and its process is not known, so that it cannot be ended: but what it has not got
 * becomes an error (SIGBUS) instead of the zeroes that it would read once the descriptor is closed. Before 6.6 the kernel cannot do that: then
 * it stays open, and whoever touches such a page waits. */
static void abandon_child(const pf_peer_t *peer, int uffd) {
  int64_t done = 0;
  for (size_t i = 0; i < peer->area_count; i++) {
    const pf_area_t *area = &peer->areas[i];
    for (uint64_t at = area->start; at < area->end; at += done > 0 ? (uint64_t)done : pf_peer_page_size(peer)) {
      done = pf_uffd_poison(uffd, at, area->end - at, 0);
      if (done < 0 && done != -EEXIST && done != -ENOENT) {
        if (done == -ESRCH) { /* it has ended */
          close(uffd);
        }
        return;
      }
    }
  }
  close(uffd);
}

void pf_peer_apply(pf_peer_t *peer, const struct pf_uffd_msg *message) {
  if (!make_room(peer, 3)) {
    pf_peer_refuse(peer, 0); /* no memory to know where its memory is */
    return;
  }
  switch (message->event) {
    case PF_UFFD_EVENT_REMOVE:
      give_back(peer, message->from, message->to);
      break;
    case PF_UFFD_EVENT_UNMAP:
      if (peer->again) {
        give_back(peer, message->from, message->to);
      }
      cut(peer, message->from, message->to);
      if (peer->again && peer->area_count == 0) {
        pf_peer_ended(peer);
      }
      break;
    case PF_UFFD_EVENT_REMAP:
      remap(peer, message->from, message->to, message->length);
      break;
    case PF_UFFD_EVENT_FORK:
      pf_peer_refuse(peer, message->from);
      abandon_child(peer, (int)(uint32_t)message->from);
      break;
    default:
      pf_peer_refuse(peer, message->event);
  }
}
