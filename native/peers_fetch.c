/*
 * See peers_threads.h. Threads that have a segment load a page that a fault needs, and put it there, in the order of fetch_queue.h; and one that sees to the deadlines of
 * faults that wait for such a thread. The lock here is taken under a peer's.
 */
#include "fetch_queue.h"
#include "peers_threads.h"

#include "failure.h"
#include "thread.h"
#include "touched.h"

#include <stddef.h>
#include <stdlib.h>
#include <sys/prctl.h>

#define FETCHING_KEPT 16 /* threads that stay when there is nothing to do */
#define PAUSE_NS 500000ULL /* until the pager has a slot again */

/* --- loading ------------------------------------------------------------------------------------------------------------------ */

/* For a fault the segment reads ahead as its owner has said, by itself where a guest reads in order; a range is loaded as one. */
static uint32_t window_of(const pf_region_t *region, uint64_t left, bool ahead) {
  if (left == 1 && !ahead) {
    return 0;
  }
  return left < region->window_max ? (uint32_t)left : region->window_max;
}

/* Nobody waits for these, so none of them is asked for with what somebody waits for: neither one that is alone, nor where so many are asked for ahead that there is no
 * room for more. What does not come of it is asked for as it is held. */
static void ask_ahead(pf_region_t *region, uint64_t page, uint64_t end, _Atomic uint32_t *cancel) {
  const pf_wait_t wait = {.deadline_ns = pf_now_ns() + region->timeout_ns, .background = true, .cancel = cancel};
  pf_why_t why;
  while (page < end && pf_now_ns() < wait.deadline_ns && !pf_pager_is_dead(region->source.pager) && !pf_must_stop(region, &wait, &why)) {
    uint32_t done = pf_pages_bring_ahead(region, page, (uint32_t)(end - page), &wait);
    if (done == 0) {
      pf_sleep_until(pf_now_ns() + PAUSE_NS);
    }
    page += done;
  }
}

bool pf_peers_load(pf_region_t *region, uint64_t first, uint64_t end, uint64_t deadline_ns, pf_why_t *why, _Atomic uint32_t *cancel) {
  uint64_t page = first, asked = first;
  bool ahead = deadline_ns == 0;
  for (; page < end; page++) {
    if (ahead && page == asked && region->source.kind == PF_SOURCE_PAGER) {
      asked += window_of(region, end - page, true);
      ask_ahead(region, page, asked, cancel);
    }
    pf_wait_t wait = {.deadline_ns = ahead ? pf_now_ns() + region->timeout_ns : deadline_ns, .heal = true, .background = ahead, .ahead = ahead, .cancel = cancel,
                      .window = window_of(region, end - page, ahead)};
    int err = pf_page_hold(region, page);
    if (err != 0) {
      *why = (pf_why_t){.code = PF_E_BUDGET, .err = -err};
      break;
    }
    if (!pf_page_ensure_for_call(region, page, &wait, why)) {
      pf_page_unhold(region, page);
      break;
    }
  }
  if (page == end) {
    return true;
  }
  while (page > first) {
    pf_page_unhold(region, --page);
  }
  return false;
}

void pf_peers_unload(pf_region_t *region, uint64_t first, uint64_t end) {
  for (uint64_t page = first; page < end; page++) {
    pf_page_unhold(region, page);
  }
}

void pf_peers_pages_under(const pf_region_t *region, uint64_t offset, uint64_t length, uint64_t *first, uint64_t *end) {
  uint64_t last = offset + length < region->length ? offset + length : region->length;
  *first = offset >> region->page_shift;
  *end = last <= offset ? *first : (last + pf_page_size(region) - 1) >> region->page_shift;
}

/* --- a fault's page --------------------------------------------------------------------------------------------------------------- */

static pf_lock_t fetch_lock; /* and the queue's, and all below */
static pf_link_t handed = {&handed, &handed}; /* taken on, for the next thread that looks */
static unsigned fetch_threads;
static bool keeper;
static uint64_t keeper_sleeps_until;
static _Atomic uint32_t fetch_work, keeper_work; /* futexes */

static void end_fetch(pf_fetch_t *fetch) {
  pf_peers_drop(fetch->peer);
  free(fetch);
}

/* False: nobody waits for the page any more. *region: entered, with its pages under the guest's; or NULL: there is no segment. */
static bool wanted(const pf_fetch_t *fetch, pf_region_t **region, uint64_t *first, uint64_t *end) {
  pf_peer_t *peer = fetch->peer;
  uint64_t address, offset = 0;
  pf_peers_lock(peer);
  bool waits = !atomic_load(&peer->closing) && pf_peer_find_page(peer, fetch->page, &address, &offset);
  pf_unlock(&peer->lock);
  *region = waits ? pf_region_by_id(pf_snapshot_segment(peer->snapshot)) : NULL;
  if (*region != NULL) {
    pf_peers_pages_under(*region, offset, 1ULL << peer->page_shift, first, end);
  }
  return waits;
}

/* `why`: it could not be had. True: something of the guest's waits for an event. */
static bool tell_peer(const pf_fetch_t *fetch, const pf_why_t *why) {
  pf_peer_t *peer = fetch->peer;
  pf_peers_lock(peer);
  if (!atomic_load(&peer->closing)) {
    pf_peer_fetched(peer, fetch->page, fetch->tid, fetch->since_ns, why);
  }
  bool waits = peer->deferred_count > 0;
  pf_unlock(&peer->lock);
  return waits;
}

static void fetch_now(const pf_fetch_t *fetch) {
  pf_peer_t *peer = fetch->peer;
  pf_why_t why = {.code = PF_E_CLOSED};
  uint64_t first = 0, end = 0;
  pf_region_t *region;
  if (!wanted(fetch, &region, &first, &end)) {
    return;
  }
  bool there = region != NULL && pf_peers_load(region, first, end, fetch->deadline_ns, &why, &peer->closing);
  for (bool waits = tell_peer(fetch, there ? NULL : &why); waits; waits = peer->later) { /* for an event: whoever attends may be asleep */
    pf_sleep_until(pf_now_ns() + 1000000ULL);
    pf_peers_turn(peer);
  }
  if (there) {
    pf_peers_unload(region, first, end);
  }
  if (region != NULL) {
    pf_region_leave(region);
  }
}

static void *fetching(void *unused) {
  pf_fetch_t *fetch = NULL;
  prctl(PR_SET_NAME, "pagefault fetch");
  for (;;) {
    uint32_t seen = atomic_load(&fetch_work);
    pf_lock(&fetch_lock);
    if (!pf_link_alone(&handed)) {
      fetch = PF_LINKED(handed.next, pf_fetch_t, link);
      pf_link_remove(&fetch->link);
    } else {
      fetch = pf_fetch_take();
    }
    bool ends = fetch == NULL && fetch_threads > FETCHING_KEPT;
    fetch_threads -= ends;
    pf_unlock(&fetch_lock);
    if (ends) {
      return unused;
    }
    if (fetch == NULL) {
      pf_futex_wait(&fetch_work, seen, UINT64_MAX);
      continue;
    }
    fetch_now(fetch);
    pf_lock(&fetch_lock);
    pf_fetch_done(fetch);
    pf_unlock(&fetch_lock);
    end_fetch(fetch);
  }
}

/* --- faults that nobody takes on in time ------------------------------------------------------------------------------------------ */

/* The keeper of deadlines never waits for a store. */
static void give_up(const pf_fetch_t *fetch) {
  uint64_t first = 0, end = 0;
  pf_why_t why = {.code = PF_E_CLOSED};
  pf_region_t *region;
  if (!wanted(fetch, &region, &first, &end)) {
    return;
  }
  if (region != NULL) {
    why = (pf_why_t){.code = PF_E_TIMEOUT};
    pf_failure_record(region, first, PF_ASK_READ, why, NULL, NULL);
    pf_region_leave(region);
  }
  tell_peer(fetch, &why);
}

static void *keeping(void *unused) {
  prctl(PR_SET_NAME, "pagefault late");
  for (;;) {
    uint32_t seen = atomic_load(&keeper_work);
    pf_lock(&fetch_lock);
    pf_fetch_t *fetch = pf_fetch_take_late(pf_now_ns());
    uint64_t until = keeper_sleeps_until = fetch != NULL ? 0 : pf_fetch_deadline();
    pf_unlock(&fetch_lock);
    if (fetch == NULL) {
      pf_futex_wait(&keeper_work, seen, until);
      continue;
    }
    give_up(fetch);
    end_fetch(fetch);
  }
  return unused;
}

/* Lock held. Where no thread is to be had for it, deadlines are kept by those that load. */
static void keep_deadlines(void) {
  uint64_t first = pf_fetch_deadline();
  if (first != UINT64_MAX && !keeper) {
    keeper = pf_thread_start_detached(keeping, NULL, PF_PEERS_STACK) == 0;
  } else if (first < keeper_sleeps_until) {
    keeper_sleeps_until = 0;
    atomic_fetch_add(&keeper_work, 1);
    pf_futex_wake_one(&keeper_work);
  }
}

/* --- from the guests' side ---------------------------------------------------------------------------------------------------------- */

/* Lock held. */
static bool start_thread(void) {
  bool started = pf_thread_start_detached(fetching, NULL, PF_PEERS_STACK) == 0;
  fetch_threads += started;
  return started;
}

/* Lock held. What may be taken on is handed to threads, one each. Each of them looks once more before it rests, so that nothing is left that could be at work. */
static void hand_out(void) {
  while (pf_fetch_may() && (pf_fetch_at_work() < fetch_threads || start_thread())) {
    pf_link_append(&handed, &pf_fetch_take()->link);
    atomic_fetch_add(&fetch_work, 1);
    pf_futex_wake_one(&fetch_work);
  }
}

static uint64_t deadline_of(const pf_peer_t *peer, uint64_t since_ns) {
  uint64_t timeout_ns = peer->timeout_ns;
  pf_region_t *region = pf_region_by_id(pf_snapshot_segment(peer->snapshot));
  if (region != NULL) {
    timeout_ns = region->timeout_ns < timeout_ns ? region->timeout_ns : timeout_ns;
    pf_region_leave(region);
  }
  return since_ns + timeout_ns;
}

bool pf_peers_fetch(pf_peer_t *peer, uint64_t page, uint32_t tid, uint64_t since_ns) {
  pf_fetch_t *fetch = malloc(sizeof *fetch);
  if (fetch == NULL) {
    return false;
  }
  *fetch = (pf_fetch_t){.peer = peer, .page = page, .since_ns = since_ns, .deadline_ns = deadline_of(peer, since_ns), .tid = tid};
  pf_lock(&fetch_lock);
  bool can = (fetch_threads > 0 || start_thread()) && pf_fetch_add(fetch);
  if (can) {
    atomic_fetch_add(&peer->refs, 1);
    hand_out();
    keep_deadlines();
  }
  pf_unlock(&fetch_lock);
  if (!can) {
    free(fetch);
  }
  return can;
}

void pf_peers_forget(pf_peer_t *peer) {
  pf_link_t forgotten;
  pf_link_begin(&forgotten);
  pf_lock(&fetch_lock);
  for (pf_fetch_t *fetch = pf_fetch_take_of(peer); fetch != NULL; fetch = pf_fetch_take_of(peer)) {
    pf_link_append(&forgotten, &fetch->link);
  }
  pf_unlock(&fetch_lock);
  while (!pf_link_alone(&forgotten)) {
    pf_fetch_t *fetch = PF_LINKED(forgotten.next, pf_fetch_t, link);
    pf_link_remove(&fetch->link);
    end_fetch(fetch);
  }
}
