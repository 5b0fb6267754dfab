/*
 * Node-API: the threads that page other processes (peers.h). Any JavaScript thread. Everything returns a number of the kernel's kind, a result of at least 0 or
 * a negative errno. What an environment has not closed when it ends is ended with it: nobody would hear of it.
 */
#include "binding.h"
#include "peers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SNAPSHOTS 1024
#define LAYERS_MAX 64

/* --- snapshots ------------------------------------------------------------------------------------------------------------ */

static pf_lock_t lock;
static pf_snapshot_t *snapshots[SNAPSHOTS];

static napi_value keep(napi_env env, int err, pf_snapshot_t *snapshot) {
  int slot = 0;
  if (err != 0) {
    return pf_from_number(env, err);
  }
  MASKED({
    pf_lock(&lock);
    while (slot < SNAPSHOTS && snapshots[slot] != NULL) {
      slot++;
    }
    if (slot < SNAPSHOTS) {
      snapshots[slot] = snapshot;
    }
    pf_unlock(&lock);
  });
  if (slot == SNAPSHOTS) {
    pf_snapshot_drop(snapshot);
    return pf_from_number(env, -EMFILE);
  }
  return pf_from_number(env, slot);
}

/* Held by the caller from here on. */
static pf_snapshot_t *snapshot_of(napi_env env, napi_value value) {
  int64_t slot = pf_integer(env, value);
  pf_snapshot_t *snapshot = NULL;
  MASKED({
    pf_lock(&lock);
    snapshot = slot >= 0 && slot < SNAPSHOTS ? snapshots[slot] : NULL;
    if (snapshot != NULL) {
      pf_snapshot_hold(snapshot);
    }
    pf_unlock(&lock);
  });
  return snapshot;
}

static napi_value snapshot_of_files(napi_env env, napi_callback_info info) {
  napi_value args[3];
  pf_snapshot_t *snapshot = NULL;
  pf_args(env, info, 3, args);
  uint64_t count = pf_number(env, args[2]);
  const int32_t *fds = pf_elements(env, args[0], napi_int32_array, count);
  if (fds == NULL || count > LAYERS_MAX) {
    return pf_from_number(env, -EINVAL);
  }
  int err = pf_snapshot_of_files(fds, count, pf_number(env, args[1]), &snapshot);
  return keep(env, err, snapshot);
}

static napi_value snapshot_of_segment(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_snapshot_t *snapshot = NULL;
  pf_args(env, info, 2, args);
  int err = pf_snapshot_of_segment(pf_number(env, args[0]), pf_number(env, args[1]), &snapshot);
  return keep(env, err, snapshot);
}

static napi_value snapshot_of_zeroes(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_snapshot_t *snapshot = NULL;
  pf_args(env, info, 1, args);
  int err = pf_snapshot_of_zeroes(pf_number(env, args[0]), &snapshot);
  return keep(env, err, snapshot);
}

static napi_value snapshot_extents(napi_env env, napi_callback_info info) {
  napi_value args[2];
  uint64_t bytes, count;
  pf_args(env, info, 2, args);
  double *out = pf_elements(env, args[1], napi_float64_array, 2);
  pf_snapshot_t *snapshot = snapshot_of(env, args[0]);
  if (snapshot == NULL || out == NULL) {
    return pf_from_number(env, -EINVAL);
  }
  pf_snapshot_extents(snapshot, &bytes, &count);
  pf_snapshot_drop(snapshot);
  out[0] = (double)bytes;
  out[1] = (double)count;
  return pf_from_number(env, 0);
}

static napi_value snapshot_close(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int err = 0;
  pf_args(env, info, 1, args);
  int64_t slot = pf_integer(env, args[0]);
  pf_snapshot_t *snapshot = NULL;
  MASKED({
    pf_lock(&lock);
    snapshot = slot >= 0 && slot < SNAPSHOTS ? snapshots[slot] : NULL;
    if (snapshot != NULL && pf_snapshot_holders(snapshot) > 1) {
      err = -EBUSY;
    } else if (snapshot != NULL) {
      snapshots[slot] = NULL;
    }
    pf_unlock(&lock);
  });
  if (snapshot != NULL && err == 0) {
    pf_snapshot_drop(snapshot);
  }
  return pf_from_number(env, snapshot == NULL ? -EINVAL : err);
}

/* --- owners ------------------------------------------------------------------------------------------------------------------- */

static void close_owner(void *data) { pf_peers_close((uint32_t)(uintptr_t)data); }

static napi_value peers_open(napi_env env, napi_callback_info info) {
  napi_value args[2];
  uint32_t owner;
  int fd;
  pf_args(env, info, 2, args);
  int32_t *out = pf_elements(env, args[1], napi_int32_array, 2);
  if (out == NULL) {
    return pf_from_number(env, -EINVAL);
  }
  int err = pf_peers_open((unsigned)pf_number(env, args[0]), &owner, &fd);
  if (err == 0) {
    out[0] = (int32_t)owner;
    out[1] = fd;
    napi_add_env_cleanup_hook(env, close_owner, (void *)(uintptr_t)owner);
  }
  return pf_from_number(env, err);
}

static napi_value peers_close(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  uint32_t owner = (uint32_t)pf_number(env, args[0]);
  if (owner >= PF_OWNERS_MAX) {
    return pf_from_number(env, -EINVAL);
  }
  napi_remove_env_cleanup_hook(env, close_owner, (void *)(uintptr_t)owner);
  pf_peers_close(owner);
  return pf_from_number(env, 0);
}

/* Five numbers a note: peer, event, offset, code (its name is looked up by peerCode), errno. */
static napi_value peers_notes(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_note_t notes[32];
  pf_args(env, info, 2, args);
  double *out = pf_elements(env, args[1], napi_float64_array, 32 * 5);
  size_t count = out == NULL ? 0 : pf_peers_take_notes((uint32_t)pf_number(env, args[0]), notes, 32);
  for (size_t i = 0; i < count; i++) {
    const double note[5] = {(double)notes[i].peer, notes[i].event, (double)notes[i].offset, notes[i].why.code, notes[i].why.err};
    memcpy(out + i * 5, note, sizeof note);
  }
  return pf_from_number(env, (double)count);
}

static napi_value peer_code(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  uint64_t code = pf_number(env, args[0]);
  return pf_from_text(env, code < PF_E_COUNT ? pf_code_name((pf_code_t)code) : "");
}

/* --- peers -------------------------------------------------------------------------------------------------------------------- */

/* Three numbers an area: start, length, offset in the snapshot. */
static pf_area_t *read_areas(napi_env env, napi_value value, size_t count) {
  const uint64_t *numbers = pf_elements(env, value, napi_biguint64_array, count * 3);
  pf_area_t *areas = numbers == NULL || count == 0 || count > 1u << 20 ? NULL : malloc(count * sizeof *areas);
  for (size_t i = 0; areas != NULL && i < count; i++) {
    areas[i] = (pf_area_t){numbers[i * 3], numbers[i * 3] + numbers[i * 3 + 1], numbers[i * 3 + 2], 0, false};
  }
  return areas;
}

/* peerAdd(owner, [uffd, pidfd, states, pageShift, flags, areas], areas, snapshot, timeoutMs, out) */
static napi_value peer_add(napi_env env, napi_callback_info info) {
  napi_value args[6];
  uint64_t id;
  pf_args(env, info, 6, args);
  const int32_t *numbers = pf_elements(env, args[1], napi_int32_array, 6);
  double *out = pf_elements(env, args[5], napi_float64_array, 1);
  pf_area_t *areas = numbers == NULL || out == NULL ? NULL : read_areas(env, args[2], (size_t)numbers[5]);
  pf_snapshot_t *snapshot = areas == NULL ? NULL : snapshot_of(env, args[3]);
  if (snapshot == NULL || numbers[3] < 12 || numbers[3] > 30) {
    free(areas);
    if (snapshot != NULL) {
      pf_snapshot_drop(snapshot);
    }
    return pf_from_number(env, -EINVAL);
  }
  pf_peer_options_t options = {
      .uffd = numbers[0],
      .pidfd = numbers[1],
      .states = numbers[2],
      .page_shift = (uint8_t)numbers[3],
      .park = numbers[4] & 1,
      .record = numbers[4] & 2,
      .adopted = numbers[4] & 4,
      .supervised = numbers[4] & 8,
      .again = numbers[4] & 16,
      .areas = areas,
      .area_count = (size_t)numbers[5],
      .timeout_ns = pf_number(env, args[4]) * 1000000ULL,
      .snapshot = snapshot,
  };
  int err = pf_peers_add((uint32_t)pf_number(env, args[0]), &options, &id);
  free(areas);
  pf_snapshot_drop(snapshot); /* the peer has its own */
  if (err == 0) {
    out[0] = (double)id;
  }
  return pf_from_number(env, err);
}

static napi_value peer_remove(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_args(env, info, 2, args);
  return pf_from_number(env, pf_peers_remove(pf_number(env, args[0]), pf_boolean(env, args[1])) ? 0 : -ESRCH);
}

#define VIEW_FIXED 18

/* The order of PEER_NUMBERS in peers.ts, then the histogram, then tid, faults, blocked µs for each thread. */
static napi_value peer_look(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_peer_view_t view;
  pf_args(env, info, 2, args);
  double *out = pf_elements(env, args[1], napi_float64_array, VIEW_FIXED + PF_PEER_BUCKETS + 3 * PF_PEER_TIDS);
  if (out == NULL) {
    return pf_from_number(env, -EINVAL);
  }
  if (!pf_peers_look(pf_number(env, args[0]), &view)) {
    return pf_from_number(env, -ESRCH);
  }
  const pf_peer_numbers_t *n = &view.numbers;
  const uint64_t fixed[VIEW_FIXED] = {
      n->faults,  n->demand,       n->prefetched, n->prefetch_hits, n->zero,        n->removed,
      n->deferred, n->duplicates,  n->failures,   n->retries,       n->present,     n->bytes_copied,
      n->blocked_ns / 1000, view.pages, view.age_ns / 1000, n->ahead, view.replay_left, view.trace_count,
  };
  for (size_t i = 0; i < VIEW_FIXED; i++) {
    *out++ = (double)fixed[i];
  }
  for (size_t i = 0; i < PF_PEER_BUCKETS; i++) {
    *out++ = (double)n->histogram[i];
  }
  for (size_t i = 0; i < PF_PEER_TIDS; i++) {
    *out++ = view.tids[i].tid;
    *out++ = (double)view.tids[i].faults;
    *out++ = (double)view.tids[i].blocked_ns / 1000;
  }
  return pf_from_number(env, 0);
}

/* Three numbers an area: start, end, page. */
static napi_value peer_areas(napi_env env, napi_callback_info info) {
  napi_value args[4];
  pf_args(env, info, 4, args);
  size_t most = pf_number(env, args[2]);
  uint64_t *out = pf_elements(env, args[1], napi_biguint64_array, most * 3);
  pf_area_t *areas = out == NULL ? NULL : malloc((most + 1) * sizeof *areas);
  if (areas == NULL) {
    return pf_from_number(env, out == NULL ? -EINVAL : -ENOMEM);
  }
  int64_t count = pf_peers_areas(pf_number(env, args[0]), areas, most, pf_boolean(env, args[3]));
  for (int64_t i = 0; i < count && i < (int64_t)most; i++) {
    const uint64_t area[3] = {areas[i].start, areas[i].end, areas[i].first};
    memcpy(out + i * 3, area, sizeof area);
  }
  free(areas);
  return pf_from_number(env, (double)count);
}

static napi_value peer_trace(napi_env env, napi_callback_info info) {
  napi_value args[5];
  pf_args(env, info, 5, args);
  size_t most = pf_number(env, args[4]);
  uint32_t *pages = pf_elements(env, args[2], napi_uint32_array, most);
  double *at = pf_elements(env, args[3], napi_float64_array, most);
  if (pages == NULL || at == NULL) {
    return pf_from_number(env, -EINVAL);
  }
  return pf_from_number(env, (double)pf_peers_trace(pf_number(env, args[0]), pf_number(env, args[1]), pages, at, most));
}

static napi_value peer_replay(napi_env env, napi_callback_info info) {
  napi_value args[3];
  pf_args(env, info, 3, args);
  size_t count = pf_number(env, args[2]);
  const uint32_t *pages = pf_elements(env, args[1], napi_uint32_array, count);
  return pf_from_number(env, pages == NULL ? -EINVAL : pf_peers_replay(pf_number(env, args[0]), pages, count));
}

static napi_value peer_retry(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  return pf_from_number(env, pf_peers_retry(pf_number(env, args[0])) ? 0 : -ESRCH);
}

const pf_export_t pf_peer_exports[] = {
    {"snapshotOfFiles", snapshot_of_files},
    {"snapshotOfSegment", snapshot_of_segment},
    {"snapshotOfZeroes", snapshot_of_zeroes},
    {"snapshotExtents", snapshot_extents},
    {"snapshotClose", snapshot_close},
    {"peersOpen", peers_open},
    {"peersClose", peers_close},
    {"peersNotes", peers_notes},
    {"peerCode", peer_code},
    {"peerAdd", peer_add},
    {"peerRemove", peer_remove},
    {"peerLook", peer_look},
    {"peerAreas", peer_areas},
    {"peerTrace", peer_trace},
    {"peerReplay", peer_replay},
    {"peerRetry", peer_retry},
    {NULL, NULL},
};
