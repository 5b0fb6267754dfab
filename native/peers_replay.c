/*
 * See peers_threads.h. Threads that bring pages ahead, a run at a time, several of them at one peer, while nobody waits to read its messages. After some runs a peer's place
 * in the queue is the last one. Those that copy from files are a crew of their own; in the other one a segment has a limit, and the last half of the threads is for segments
 * that have none: a store that does not answer holds up what is brought ahead from that store.
 */
#include "peers_threads.h"

#include "peers.h"
#include "thread.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#define EACH 8            /* threads at a segment */
#define COPYING 2         /* at files: one does not use all of the memory's bandwidth */
#define THREADS 128       /* that wait for segments */
#define RUNS 16           /* of a peer, before the next one's */
#define RUN_PAGES 512     /* brought in one call while nobody asks */
#define RUN_PAGES_BUSY 32 /* while somebody does */
#define FETCH_AHEAD 64    /* pages that a segment is asked for at once */
#define NEED_AHEAD 4096   /* pages of a file that are read ahead of the replay */

/* What has pages to bring from one segment, or from files. */
typedef struct {
  uint64_t segment;
  unsigned places, at_work; /* of the places */
} line_t;

/* A peer, with a reference; as often in the queue as threads may be at it. */
typedef struct {
  pf_peer_t *peer;
  line_t *line;
} place_t;

typedef struct {
  const unsigned most, shared, each; /* threads; of them, for any line; at a line */
  pf_lock_t lock;                    /* and all here */
  unsigned threads, busy;
  unsigned lines_used;
  line_t lines[PF_PEERS_MAX];
  place_t places[PF_PEERS_MAX * EACH]; /* that no thread has */
  size_t first, count;
  _Atomic uint32_t work; /* futex */
} crew_t;

static crew_t waiting_crew = {.most = THREADS, .shared = THREADS / 2, .each = EACH};
static crew_t copying_crew = {.most = COPYING, .shared = COPYING, .each = COPYING};

typedef struct {
  uint64_t offset;
  uint32_t count; /* pages; 0: there is nothing left */
} run_t;

/* Lock held. The next pages of the list that adjoin. */
static run_t next_run(pf_peer_t *peer, uint32_t most) {
  run_t run = {0};
  if (atomic_load(&peer->closing) || peer->gone || peer->replay_at >= peer->replay_count) {
    return run;
  }
  uint32_t page = peer->replay[peer->replay_at];
  run.offset = (uint64_t)page << peer->page_shift;
  while (run.count < most && peer->replay_at < peer->replay_count && peer->replay[peer->replay_at] == page + run.count) {
    run.count++;
    peer->replay_at++;
  }
  return run;
}

/* Lock held. A turn goes first. */
static void await_turns(pf_peer_t *peer) {
  while (peer->turns > 0) {
    uint32_t seen = atomic_load(&peer->moved);
    pf_unlock(&peer->lock);
    pf_futex_wait(&peer->moved, seen, UINT64_MAX);
    pf_lock(&peer->lock);
  }
}

/* Lock held: it is let go for whoever wants it. Not for ever: after some tries a page is left for its own fault. */
static void bring(pf_peer_t *peer, run_t run) {
  uint64_t size = 1ULL << peer->page_shift, address, page;
  for (unsigned tries = 0; run.count > 0 && tries < 100;) {
    await_turns(peer);
    uint32_t most = peer->numbers.faults != peer->replay_seen ? RUN_PAGES_BUSY : RUN_PAGES;
    peer->replay_seen = peer->numbers.faults;
    if (atomic_load(&peer->closing) || !pf_peer_find_offset(peer, run.offset, &address, &page)) {
      return;
    }
    uint32_t done = pf_peer_bring_run(peer, address, run.count < most ? run.count : most);
    run.count -= done < run.count ? done : run.count;
    run.offset += done * size;
    pf_unlock(&peer->lock);
    if (done == 0) {
      tries++;
      pf_sleep_until(pf_now_ns() + 200000ULL);
    }
    for (int i = 0; i < 100 && atomic_load(&peer->wanted) > 0; i++) {
      sched_yield();
    }
    pf_lock(&peer->lock);
  }
}

/* Lock held. What a file will be asked for soon, while earlier pages are being copied. */
static void need_soon(pf_peer_t *peer) {
  size_t until = peer->replay_at + NEED_AHEAD < peer->replay_count ? peer->replay_at + NEED_AHEAD : peer->replay_count;
  size_t at = peer->replay_need > peer->replay_at ? peer->replay_need : peer->replay_at;
  if (until - at < NEED_AHEAD / 2 && until != peer->replay_count) {
    return;
  }
  while (at < until) {
    size_t from = at++;
    while (at < until && peer->replay[at] == peer->replay[at - 1] + 1) {
      at++;
    }
    pf_snapshot_will_need(peer->snapshot, (uint64_t)peer->replay[from] << peer->page_shift, (uint64_t)(at - from) << peer->page_shift);
  }
  peer->replay_need = until;
}

/* Lock held: it is let go while the store is waited for. */
static void bring_from_segment(pf_peer_t *peer, uint64_t segment, run_t run) {
  pf_unlock(&peer->lock);
  pf_why_t why;
  uint64_t first = 0, end = 0;
  pf_region_t *region = pf_region_by_id(segment);
  if (region != NULL) {
    pf_peers_pages_under(region, run.offset, (uint64_t)run.count << peer->page_shift, &first, &end);
  }
  bool there = region != NULL && pf_peers_load(region, first, end, 0, &why, &peer->closing);
  pf_lock(&peer->lock);
  if (there) {
    bring(peer, run);
    pf_unlock(&peer->lock);
    pf_peers_unload(region, first, end);
    pf_lock(&peer->lock);
  }
  if (region != NULL) {
    pf_region_leave(region);
  }
}

/* Some runs. False: there is nothing left of the list. */
static bool replay_some(pf_peer_t *peer) {
  uint64_t segment = pf_snapshot_segment(peer->snapshot);
  uint32_t most = segment == 0 ? RUN_PAGES : (uint32_t)(FETCH_AHEAD * pf_os_page_size() >> peer->page_shift);
  bool left = true;
  pf_lock(&peer->lock);
  for (unsigned i = 0; left && i < RUNS; i++) {
    if (segment == 0) {
      need_soon(peer);
    }
    run_t run = next_run(peer, most > 0 ? most : 1);
    left = run.count > 0;
    if (left && segment == 0) {
      bring(peer, run);
    } else if (left) {
      bring_from_segment(peer, segment, run);
    }
  }
  if (!left && --peer->replay_threads == 0 && !peer->gone) {
    pf_peers_tell(peer, PF_PEER_REPLAYED, 0, (pf_why_t){0});
  }
  pf_unlock(&peer->lock);
  return left;
}

/* --- the queue: lock of the crew held --------------------------------------------------------------------------------------------- */

static size_t room_of(const crew_t *crew) { return sizeof crew->places / sizeof *crew->places; }

/* False: there is no room. */
static bool put_last(crew_t *crew, place_t place) {
  if (crew->count == room_of(crew)) {
    return false;
  }
  crew->places[(crew->first + crew->count++) % room_of(crew)] = place;
  return true;
}

static place_t take_first(crew_t *crew) {
  place_t place = crew->places[crew->first];
  crew->first = (crew->first + 1) % room_of(crew);
  crew->count--;
  return place;
}

static bool may_begin(const crew_t *crew, const line_t *line) {
  return line->at_work == 0 || (line->at_work < crew->each && crew->busy < crew->shared);
}

/* The first place that may be begun comes first; those before it are the last now. False: there is none. */
static bool turn_to_next(crew_t *crew) {
  for (size_t seen = 0; seen < crew->count; seen++) {
    if (may_begin(crew, crew->places[crew->first].line)) {
      return true;
    }
    put_last(crew, take_first(crew));
  }
  return false;
}

/* NULL: there are too many. */
static line_t *line_of(crew_t *crew, uint64_t segment) {
  line_t *unused = NULL;
  unsigned used = 0;
  for (size_t i = 0; i < sizeof crew->lines / sizeof *crew->lines && (unused == NULL || used < crew->lines_used); i++) {
    line_t *line = &crew->lines[i];
    if (line->places > 0 && line->segment == segment) {
      return line;
    }
    used += line->places > 0;
    unused = unused == NULL && line->places == 0 ? line : unused;
  }
  if (unused != NULL) {
    unused->segment = segment;
  }
  return unused;
}

static bool add_place(crew_t *crew, pf_peer_t *peer, line_t *line) {
  if (!put_last(crew, (place_t){peer, line})) {
    return false;
  }
  crew->lines_used += line->places++ == 0;
  return true;
}

static void end_place(crew_t *crew, line_t *line) { crew->lines_used -= --line->places == 0; }

/* --- the threads ------------------------------------------------------------------------------------------------------------------ */

/* Gives back the place that the thread has, if it has one, and takes the next. False: there is none for it. */
static bool next_place(crew_t *crew, place_t *place, bool has, bool left) {
  if (has) {
    crew->busy--;
    place->line->at_work--;
    if (!left) {
      end_place(crew, place->line);
    } else if (!put_last(crew, *place)) { /* it goes on with it */
      crew->busy++;
      place->line->at_work++;
      return true;
    }
  }
  if (!turn_to_next(crew)) {
    return false;
  }
  *place = take_first(crew);
  crew->busy++;
  place->line->at_work++;
  if (crew->busy < crew->threads && turn_to_next(crew)) {
    atomic_fetch_add(&crew->work, 1); /* for one that sleeps */
    pf_futex_wake_all(&crew->work);
  }
  return true;
}

static void *replaying(void *data) {
  crew_t *crew = data;
  place_t place = {0};
  bool has = false, left = false;
  prctl(PR_SET_NAME, "pagefault ahead");
  for (;;) {
    pf_peer_t *done = has && !left ? place.peer : NULL;
    pf_lock(&crew->lock);
    uint32_t seen = atomic_load(&crew->work);
    has = next_place(crew, &place, has, left);
    bool ends = !has && crew->threads > crew->each;
    crew->threads -= ends;
    pf_unlock(&crew->lock);
    if (done != NULL) {
      pf_peers_drop(done);
    }
    if (ends) {
      return NULL;
    }
    if (has) {
      left = replay_some(place.peer);
    } else {
      pf_futex_wait(&crew->work, seen, UINT64_MAX);
    }
  }
}

/* Lock of the peer held. */
static int start_replay(pf_peer_t *peer) {
  uint64_t segment = pf_snapshot_segment(peer->snapshot);
  crew_t *crew = segment != 0 ? &waiting_crew : &copying_crew;
  pf_lock(&crew->lock);
  line_t *line = line_of(crew, segment);
  while (line != NULL && peer->replay_threads < crew->each && add_place(crew, peer, line)) {
    peer->replay_threads++;
    atomic_fetch_add(&peer->refs, 1);
  }
  unsigned wanted = crew->lines_used * crew->each;
  while (crew->threads < (wanted < crew->most ? wanted : crew->most) && pf_thread_start_detached(replaying, crew, PF_PEERS_STACK) == 0) {
    crew->threads++;
  }
  bool none = crew->threads == 0;
  while (none && crew->count > 0) { /* all of them this peer's: with no thread there was nobody's before */
    end_place(crew, take_first(crew).line);
    peer->replay_threads--;
    atomic_fetch_sub(&peer->refs, 1);
  }
  atomic_fetch_add(&crew->work, 1);
  pf_unlock(&crew->lock);
  pf_futex_wake_all(&crew->work);
  return peer->replay_threads > 0 ? 0 : -EAGAIN;
}

int pf_peers_replay_list(pf_peer_t *peer, const uint32_t *pages, size_t count) {
  uint32_t *copy = malloc(count == 0 ? 1 : count * sizeof *copy);
  if (copy == NULL) {
    return -ENOMEM;
  }
  memcpy(copy, pages, count * sizeof *copy);
  pf_peers_lock(peer);
  free(peer->replay);
  peer->replay = copy;
  peer->replay_count = count;
  peer->replay_at = peer->replay_need = 0;
  int err = start_replay(peer);
  pf_unlock(&peer->lock);
  return err;
}
