#include "library.h"

#include <string.h>

#if defined(__GLIBC__)
#include <dlfcn.h>
#include <link.h>
#pragma weak _dl_find_object /* 2.35; the only one of its kind that may be called in a handler */
#endif

pf_library_found_t pf_library_at(uintptr_t code, pf_library_t *out) {
#if defined(DLFO_STRUCT_HAS_EH_DBASE)
  if (_dl_find_object == NULL) {
    return PF_LIBRARY_UNKNOWN;
  }
  struct dl_find_object found;
  void *addr;
  memcpy(&addr, &code, sizeof addr);
  if (_dl_find_object(addr, &found) != 0) {
    return PF_LIBRARY_NONE;
  }
  *out = (pf_library_t){found.dlfo_map_start, (uintptr_t)found.dlfo_link_map->l_addr, found.dlfo_link_map->l_name};
  return PF_LIBRARY_FOUND;
#else
  (void)code, (void)out;
  return PF_LIBRARY_UNKNOWN;
#endif
}
