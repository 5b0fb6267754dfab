/*
 * See peer.h: how a peer begins, is taken over from the pager before us, and ends.
 */
#include "peer_area.h"
#include "process.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- ends ----------------------------------------------------------------------------------------------------------------- */

void pf_peer_kill(pf_peer_t *peer) {
  if (peer->pidfd >= 0) {
    pf_pidfd_signal(peer->pidfd, SIGKILL);
  }
}

void pf_peer_ended(pf_peer_t *peer) {
  if (!peer->gone) {
    peer->gone = true;
    peer->deferred_count = 0;
    peer->host->tell(peer, PF_PEER_GONE, 0, (pf_why_t){0});
  }
}

void pf_peer_fail(pf_peer_t *peer, const pf_area_t *area, uint64_t address, pf_why_t why) {
  peer->numbers.failures++;
  pf_peer_set_state(peer, pf_area_page(peer, area, address), PF_PAGE_FAILED);
  peer->host->tell(peer, PF_PEER_PAGE_FAILED, pf_area_offset(area, address), why); /* whoever sees its end can have heard why */
  if (!peer->park) {
    pf_peer_kill(peer);
  }
}

void pf_peer_refuse(pf_peer_t *peer, uint64_t what) {
  peer->host->tell(peer, PF_PEER_REFUSED, what, (pf_why_t){.code = PF_E_SYSTEM});
  pf_peer_kill(peer);
}

void pf_peer_retry(pf_peer_t *peer) {
  for (size_t i = 0; i < peer->area_count; i++) {
    const pf_area_t *area = &peer->areas[i];
    for (uint64_t at = area->start; at < area->end; at += pf_peer_page_size(peer)) {
      uint64_t page = pf_area_page(peer, area, at);
      if (peer->states[page] == PF_PAGE_FAILED) {
        peer->numbers.retries++;
        pf_peer_set_state(peer, page, PF_PAGE_ABSENT);
        pf_peer_wake(peer, at, pf_peer_page_size(peer));
      }
    }
  }
}

/* --- making --------------------------------------------------------------------------------------------------------------- */

static int map_states(pf_peer_t *peer, int fd) {
  struct stat about;
  uint64_t wanted = PF_PEER_STATES_BYTES(peer->pages);
  if (fstat(fd, &about) != 0) {
    return -errno;
  }
  bool whole = (uint64_t)about.st_size >= wanted;
  peer->mapped = whole ? wanted : peer->pages;
  void *mapped = (uint64_t)about.st_size < peer->pages ? MAP_FAILED : mmap(NULL, peer->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) {
    return (uint64_t)about.st_size < peer->pages ? -EINVAL : -errno;
  }
  peer->states = mapped;
  peer->own_journal = whole ? NULL : calloc(PF_PEER_MESSAGES, sizeof *peer->own_journal);
  peer->journal = whole ? (struct pf_uffd_msg *)(void *)(peer->states + wanted - PF_PEER_MESSAGES * sizeof *peer->journal) : peer->own_journal;
  return peer->journal == NULL ? -ENOMEM : 0;
}

/* What the pager before us left: what it had been told and not acted on; what it had taken on, which is asked for again when the threads that
 * wait are woken. */
static void take_over(pf_peer_t *peer) {
  for (size_t i = 0; i < PF_PEER_MESSAGES; i++) {
    struct pf_uffd_msg *message = &peer->journal[i];
    if (message->event == PF_UFFD_EVENT_REMOVE || message->event == PF_UFFD_EVENT_UNMAP || message->event == PF_UFFD_EVENT_REMAP) {
      pf_peer_apply(peer, message);
    }
    pf_peer_strike(message);
  }
  peer->numbers.present = peer->numbers.ahead = 0;
  for (uint64_t page = 0; page < peer->pages; page++) {
    uint8_t state = peer->states[page];
    if (state == PF_PAGE_FETCHING || state == PF_PAGE_FAILED || state > PF_PAGE_AHEAD) {
      peer->states[page] = PF_PAGE_ABSENT;
    }
    pf_peer_count_state(peer, state, 1);
  }
  for (size_t i = 0; i < peer->area_count; i++) {
    pf_peer_wake(peer, peer->areas[i].start, peer->areas[i].end - peer->areas[i].start);
  }
}

int pf_peer_make(const pf_peer_options_t *options, pf_peer_t **out) {
  pf_peer_t *peer = calloc(1, sizeof *peer);
  if (peer == NULL) {
    return -ENOMEM;
  }
  peer->uffd = peer->pidfd = -1;
  peer->page_shift = options->page_shift;
  peer->park = options->park;
  peer->record = options->record;
  peer->supervised = options->supervised;
  peer->again = options->again;
  peer->timeout_ns = options->timeout_ns;
  peer->added_ns = pf_now_ns();
  peer->host = options->host;
  atomic_init(&peer->refs, 1);
  int err = pf_peer_take_areas(peer, options);
  err = err != 0 ? err : map_states(peer, options->states);
  if (err != 0) {
    pf_peer_free(peer);
    return err;
  }
  peer->uffd = options->uffd;
  peer->pidfd = options->pidfd;
  peer->snapshot = options->snapshot;
  pf_snapshot_hold(peer->snapshot);
  if (options->adopted) {
    take_over(peer);
  }
  *out = peer;
  return 0;
}

void pf_peer_free(pf_peer_t *peer) {
  if (peer->uffd >= 0) {
    close(peer->uffd);
  }
  if (peer->pidfd >= 0) {
    close(peer->pidfd);
  }
  if (peer->states != NULL) {
    munmap(peer->states, peer->mapped);
  }
  if (peer->scratch != NULL) {
    munmap(peer->scratch, pf_peer_page_size(peer));
  }
  if (peer->snapshot != NULL) {
    pf_snapshot_drop(peer->snapshot);
  }
  free(peer->own_journal);
  free(peer->areas);
  free(peer->deferred);
  free(peer->trace);
  free(peer->trace_ns);
  free(peer->replay);
  free(peer);
}
