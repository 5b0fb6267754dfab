/*
 * Stores that wait for each other: a store's Worker is stopped at a page that another Worker has to bring, whose store is stopped at a page of the first, or of
 * one more. None of them would ever be served. Looked for by each of them while it waits, in its handler or in a checked operation; nothing is locked and nothing
 * is allocated. What others wait for changes while it is read, so only what is seen twice in the same way counts.
 */
#include "thread.h"

#include <string.h>

#define HOPS_MAX 8

/* What the thread with this number waits for, if that is a page which only a Worker can bring. The region is entered. */
static pf_region_t *waits_for(int tid, pf_serving_t *out) {
  for (size_t i = 0; i < PF_THREADS_MAX; i++) {
    if (!pf_thread_waits(i, out) || out->tid != tid) {
      continue;
    }
    pf_region_t *region = pf_region_by_id(out->region);
    if (region != NULL && region->source.kind == PF_SOURCE_PAGER && atomic_load(&region->phase) == PF_PHASE_OPEN && pf_pager_has(region, out->page)) {
      return region;
    }
    if (region != NULL) {
      pf_region_leave(region);
    }
    return NULL;
  }
  return NULL;
}

static void add(char *to, size_t size, const char *text) {
  size_t have = strnlen(to, size - 1), len = strnlen(text, size - 1 - have);
  memcpy(to + have, text, len);
  to[have + len] = '\0';
}

static void add_name(char *to, size_t size, const pf_region_t *region) {
  add(to, size, "\"");
  add(to, size, region->name[0] != '\0' ? region->name : region->store_name);
  add(to, size, "\"");
}

/* Follows the threads from the one that serves `region` back to the one that waits for its page. False: it does not end there, or somebody began to wait later and is to be
 * the one that gives up. */
static bool follow(const pf_region_t *region, int me, uint64_t since, uint64_t *seen, char *sentence, size_t size) {
  int tid = pf_pager_tid(region->source.pager);
  *seen = since;
  sentence[0] = '\0';
  add(sentence, size, "stores wait for each other: one touched ");
  add_name(sentence, size, region);
  for (int hop = 0; hop < HOPS_MAX; hop++) {
    pf_serving_t serving;
    if (tid == me) {
      return hop > 0;
    }
    pf_region_t *next = waits_for(tid, &serving);
    if (next == NULL || serving.since_ns > since) {
      if (next != NULL) {
        pf_region_leave(next);
      }
      return false;
    }
    add(sentence, size, ", whose store touched ");
    add_name(sentence, size, next);
    *seen = *seen * 31 + serving.since_ns;
    tid = pf_pager_tid(next->source.pager);
    pf_region_leave(next);
  }
  return false;
}

bool pf_deadlocked(pf_region_t *region, uint64_t page, const pf_wait_t *wait, pf_knot_t *knot) {
  int me = wait->tid != 0 ? wait->tid : pf_thread_tid();
  char sentence[PF_MESSAGE_MAX];
  pf_serving_t own;
  pf_region_t *same = waits_for(me, &own);
  uint64_t seen = 0;
  bool tied = same == region && own.page == page && follow(region, me, own.since_ns, &seen, sentence, sizeof sentence);
  if (same != NULL) {
    pf_region_leave(same);
  }
  if (!tied) {
    knot->seen = 0;
    return false;
  }
  if (knot->seen != seen) {
    knot->seen = seen;
    return false;
  }
  add(sentence, sizeof sentence, ", whose store is the first one");
  pf_failure_record(region, page, PF_ASK_READ, (pf_why_t){.code = PF_E_DEADLOCK}, sentence, NULL);
  return true;
}
