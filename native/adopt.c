/*
 * Memory that exists and is to be paged (`into`): what kind of memory it is, and making it ready. Set-up: the caller's thread, under the registry lock, never in
 * a handler. The memory belongs to somebody else (V8, malloc), who goes on to believe that it is ordinary: it is never unmapped here, and what lies
 * before and behind the range is left alone.
 */
#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct {
  uintptr_t start, end;
  bool readable, writable, anonymous;
} mapping_t;

/* A line of /proc/PID/maps: "start-end perms offset major:minor inode path". Anonymous memory has inode 0; so have [heap], and names that were given. */
static bool parse(const char *line, mapping_t *out) {
  unsigned long start, end, inode;
  char perms[5];
  if (sscanf(line, "%lx-%lx %4s %*x %*x:%*x %lu", &start, &end, perms, &inode) != 4) {
    return false;
  }
  *out = (mapping_t){.start = start, .end = end, .readable = perms[0] == 'r', .writable = perms[1] == 'w', .anonymous = inode == 0 && perms[3] == 'p'};
  return true;
}

/* Takes one more mapping into account; false: nothing behind it matters. */
static bool note(const mapping_t *map, uintptr_t from, uintptr_t end, uintptr_t *at, pf_mem_seen_t *out) {
  if (map->end <= *at) {
    return true;
  }
  if (map->start > *at) {
    return false; /* a hole */
  }
  if (*at < end) {
    uintptr_t stop = map->end < end ? map->end : end;
    out->anonymous = out->anonymous && map->anonymous;
    if (map->readable && map->writable && out->open == *at - from) {
      out->open = stop - from;
    }
    out->mapped = stop - from;
    *at = stop;
  }
  if (map->end > end) {
    if (map->readable || map->writable || !map->anonymous) {
      return false;
    }
    out->reserve = map->end - end;
    *at = map->end;
  }
  return true;
}

int pf_mem_look(const void *addr, size_t len, pf_mem_seen_t *out) {
  FILE *maps = fopen("/proc/self/maps", "re");
  if (maps == NULL) {
    return -errno;
  }
  char line[512];
  uintptr_t from = (uintptr_t)addr, at = from;
  bool whole = true; /* the line begins here */
  *out = (pf_mem_seen_t){.anonymous = true};
  while (fgets(line, sizeof line, maps) != NULL) {
    mapping_t map;
    bool first = whole;
    whole = strchr(line, '\n') != NULL;
    if (first && parse(line, &map) && !note(&map, from, from + len, &at, out)) {
      break;
    }
  }
  fclose(maps);
  return 0;
}

int pf_mem_adopt(uint8_t *addr, size_t exists, size_t len, bool as_it_is) {
  /* Nobody sees ordinary zeroes between here and the range being registered. Locked memory (mlockall) cannot be dropped. */
  if (!as_it_is) {
    void *mapped = mmap(addr, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (mapped == MAP_FAILED) {
      return -errno;
    }
    munlock(addr, len);
  } else if (mprotect(addr, exists, PROT_NONE) != 0 || munlock(addr, len) != 0 || madvise(addr, exists, MADV_DONTNEED) != 0) {
    return -errno;
  }
  madvise(addr, len, MADV_UNMERGEABLE); /* as in pf_mem_map_region */
  return madvise(addr, len, MADV_DONTFORK) == 0 ? 0 : errno == EAGAIN ? -ENOMEM : -errno; /* as in pf_mem_map_region */
}

void pf_mem_give_back(uint8_t *addr, size_t exists, size_t len) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  mmap(addr, exists, PROT_READ | PROT_WRITE, flags, -1, 0); /* new mappings are registered nowhere */
  if (len > exists) {
    mmap(addr + exists, len - exists, PROT_NONE, flags, -1, 0);
  }
}
