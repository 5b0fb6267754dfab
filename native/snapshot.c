/*
 * See snapshot.h. Made once, then read by any thread without a lock.
 */
#include "snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct {
  int fd;
  uint8_t *mapped;
} layer_t;

struct pf_snapshot {
  _Atomic uint32_t holders;
  uint64_t length, segment;
  layer_t *layers;
  size_t layer_count;
  pf_extent_t *extents; /* ascending, without gaps, to the end */
  size_t extent_count;
};

/* --- extents --------------------------------------------------------------------------------------------------------------- */

typedef struct {
  pf_extent_t *list;
  size_t count, room;
} extents_t;

static int append(extents_t *to, pf_extent_t extent) {
  pf_extent_t *last = to->count > 0 ? &to->list[to->count - 1] : NULL;
  if (extent.start == extent.end) {
    return 0;
  }
  if (last != NULL && last->kind == extent.kind && (extent.kind == PF_EXTENT_ZERO || last->at + (last->end - last->start) == extent.at)) {
    last->end = extent.end;
    return 0;
  }
  if (to->count == to->room) {
    size_t room = to->room == 0 ? 64 : to->room * 2;
    pf_extent_t *grown = realloc(to->list, room * sizeof *grown);
    if (grown == NULL) {
      return -ENOMEM;
    }
    to->list = grown;
    to->room = room;
  }
  to->list[to->count++] = extent;
  return 0;
}

/* The part of an extent inside [start, end). */
static pf_extent_t part(const pf_extent_t *of, uint64_t start, uint64_t end) {
  pf_extent_t out = *of;
  out.start = start > of->start ? start : of->start;
  out.end = end < of->end ? end : of->end;
  out.at = of->kind == PF_EXTENT_FILE ? of->at + (out.start - of->start) : NULL;
  return out;
}

/* Everything of `below` in [from, to). *at: an index into it that only grows. */
static int append_below(extents_t *out, const extents_t *below, size_t *at, uint64_t from, uint64_t to) {
  int err = 0;
  while (err == 0 && from < to && *at < below->count) {
    const pf_extent_t *extent = &below->list[*at];
    if (extent->end <= from) {
      (*at)++;
      continue;
    }
    err = append(out, part(extent, from, to));
    from = extent->end < to ? extent->end : to;
  }
  return err;
}

/* `out`: what the file has, and `below` where it has holes. Whole pages: one that has a byte of data is the file's. */
static int overlay(extents_t *out, const extents_t *below, const layer_t *layer, uint64_t length) {
  uint64_t page = pf_os_page_size(), at = 0;
  size_t index = 0;
  int err = 0;
  while (err == 0 && at < length) {
    off_t data = lseek(layer->fd, (off_t)at, SEEK_DATA);
    if (data < 0 && errno != ENXIO) {
      return -errno;
    }
    uint64_t start = data < 0 ? length : (uint64_t)data & ~(page - 1);
    start = start < at ? at : start;
    start = start < length ? start : length;
    err = append_below(out, below, &index, at, start);
    if (err != 0 || start == length) {
      break;
    }
    off_t hole = lseek(layer->fd, data, SEEK_HOLE);
    if (hole < 0) {
      return -errno;
    }
    uint64_t end = ((uint64_t)hole + page - 1) & ~(page - 1);
    end = end < length ? end : length;
    err = append(out, (pf_extent_t){start, end, PF_EXTENT_FILE, layer->mapped + start});
    at = end;
  }
  return err;
}

/* --- making ------------------------------------------------------------------------------------------------------------------- */

static void free_snapshot(pf_snapshot_t *snapshot) {
  for (size_t i = 0; i < snapshot->layer_count; i++) {
    if (snapshot->layers[i].mapped != NULL) {
      munmap(snapshot->layers[i].mapped, snapshot->length);
    }
    if (snapshot->layers[i].fd >= 0) {
      close(snapshot->layers[i].fd);
    }
  }
  free(snapshot->layers);
  free(snapshot->extents);
  free(snapshot);
}

static int add_layer(pf_snapshot_t *snapshot, int from) {
  layer_t *layer = &snapshot->layers[snapshot->layer_count++];
  extents_t below = {snapshot->extents, snapshot->extent_count, 0}, out = {0};
  layer->mapped = NULL;
  layer->fd = fcntl(from, F_DUPFD_CLOEXEC, 0);
  if (layer->fd < 0) {
    return -errno;
  }
  off_t end = lseek(layer->fd, 0, SEEK_END);
  if (end != (off_t)snapshot->length) {
    return end < 0 ? -errno : -EINVAL;
  }
  void *mapped = mmap(NULL, snapshot->length, PROT_READ, MAP_SHARED | MAP_NORESERVE, layer->fd, 0);
  if (mapped == MAP_FAILED) {
    return -errno;
  }
  layer->mapped = mapped;
  madvise(mapped, snapshot->length, MADV_DONTFORK);
  madvise(mapped, snapshot->length, MADV_DONTDUMP);
  int err = overlay(&out, &below, layer, snapshot->length);
  if (err != 0) {
    free(out.list);
    return err;
  }
  free(snapshot->extents);
  snapshot->extents = out.list;
  snapshot->extent_count = out.count;
  return 0;
}

static int new_snapshot(uint64_t length, pf_extent_kind_t kind, size_t layers, pf_snapshot_t **out) {
  pf_snapshot_t *snapshot = calloc(1, sizeof *snapshot);
  if (snapshot == NULL) {
    return -ENOMEM;
  }
  extents_t all = {0};
  int err = append(&all, (pf_extent_t){0, length, kind, NULL});
  snapshot->layers = calloc(layers + 1, sizeof *snapshot->layers);
  snapshot->extents = all.list;
  snapshot->extent_count = all.count;
  snapshot->length = length;
  atomic_init(&snapshot->holders, 1);
  if (err != 0 || snapshot->layers == NULL) {
    free_snapshot(snapshot);
    return -ENOMEM;
  }
  *out = snapshot;
  return 0;
}

int pf_snapshot_of_segment(uint64_t region_id, uint64_t length, pf_snapshot_t **out) {
  int err = new_snapshot(length, PF_EXTENT_SEGMENT, 0, out);
  if (err == 0) {
    (*out)->segment = region_id;
  }
  return err;
}

int pf_snapshot_of_zeroes(uint64_t length, pf_snapshot_t **out) {
  return length == 0 ? -EINVAL : new_snapshot(length, PF_EXTENT_ZERO, 0, out);
}

int pf_snapshot_of_files(const int *fds, size_t count, uint64_t length, pf_snapshot_t **out) {
  int err = length == 0 || count == 0 ? -EINVAL : new_snapshot(length, PF_EXTENT_ZERO, count, out);
  for (size_t i = 0; err == 0 && i < count; i++) {
    err = add_layer(*out, fds[i]);
    if (err != 0) {
      free_snapshot(*out);
    }
  }
  return err;
}

void pf_snapshot_hold(pf_snapshot_t *snapshot) { atomic_fetch_add(&snapshot->holders, 1); }

void pf_snapshot_drop(pf_snapshot_t *snapshot) {
  if (atomic_fetch_sub(&snapshot->holders, 1) == 1) {
    free_snapshot(snapshot);
  }
}

uint32_t pf_snapshot_holders(const pf_snapshot_t *snapshot) { return atomic_load(&snapshot->holders); }

/* --- reading ------------------------------------------------------------------------------------------------------------------- */

uint64_t pf_snapshot_segment(const pf_snapshot_t *snapshot) { return snapshot->segment; }

pf_extent_t pf_snapshot_at(const pf_snapshot_t *snapshot, uint64_t offset, uint64_t most) {
  size_t low = 0, high = snapshot->extent_count;
  if (offset >= snapshot->length) {
    return (pf_extent_t){offset, offset + most, PF_EXTENT_ZERO, NULL};
  }
  while (high - low > 1) {
    size_t middle = low + (high - low) / 2;
    if (snapshot->extents[middle].start <= offset) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return part(&snapshot->extents[low], offset, offset + most);
}

void pf_snapshot_extents(const pf_snapshot_t *snapshot, uint64_t *bytes, uint64_t *count) {
  *bytes = *count = 0;
  for (size_t i = 0; i < snapshot->extent_count; i++) {
    bool full = snapshot->extents[i].kind != PF_EXTENT_ZERO;
    *bytes += full ? snapshot->extents[i].end - snapshot->extents[i].start : 0;
    *count += full;
  }
}

void pf_snapshot_will_need(const pf_snapshot_t *snapshot, uint64_t offset, uint64_t length) {
  pf_extent_t extent = pf_snapshot_at(snapshot, offset, length);
  if (extent.kind == PF_EXTENT_FILE) {
    uintptr_t page = pf_os_page_size(), start = (uintptr_t)extent.at & ~(page - 1);
    madvise((void *)start, (uintptr_t)extent.at + (extent.end - extent.start) - start, MADV_WILLNEED);
  }
}

/* Exactly these bytes of a layer's file. A file that ends before has been cut short. */
static int read_file(const pf_snapshot_t *snapshot, const pf_extent_t *extent, uint8_t *into) {
  for (size_t i = 0; i < snapshot->layer_count; i++) {
    const layer_t *layer = &snapshot->layers[i];
    if (extent->at < layer->mapped || extent->at >= layer->mapped + snapshot->length) {
      continue;
    }
    for (uint64_t done = 0, length = extent->end - extent->start; done < length;) {
      ssize_t got = pread(layer->fd, into + done, length - done, (off_t)(extent->start + done));
      if (got == 0 || (got < 0 && errno != EINTR)) {
        return got == 0 ? -EFAULT : -errno;
      }
      done += got > 0 ? (uint64_t)got : 0;
    }
    return 0;
  }
  return -EFAULT;
}

int pf_snapshot_read(const pf_snapshot_t *snapshot, uint64_t offset, uint8_t *into, size_t length) {
  int err = 0;
  for (uint64_t at = 0; err == 0 && at < length;) {
    pf_extent_t extent = pf_snapshot_at(snapshot, offset + at, length - at);
    if (extent.kind == PF_EXTENT_ZERO) {
      memset(into + at, 0, extent.end - extent.start);
    } else {
      err = extent.kind == PF_EXTENT_FILE ? read_file(snapshot, &extent, into + at) : -EINVAL;
    }
    at = extent.end - offset;
  }
  return err;
}
