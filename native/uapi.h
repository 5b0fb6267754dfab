/*
 * The kernel's definitions that we use, in our own words: the headers of a build machine are often older than the
 * kernel the binary runs on. Values are the kernel's ABI and never change; the version in which each appeared is
 * beside it. Included only by the files that make system calls.
 */
#ifndef PF_UAPI_H
#define PF_UAPI_H

#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#ifndef SYS_userfaultfd
#error "userfaultfd(2) has no number for this architecture in <sys/syscall.h>"
#endif
#ifndef SYS_process_madvise
#define SYS_process_madvise 440 /* 5.10, the same number on every architecture */
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434 /* 5.3, likewise */
#endif
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424 /* 5.1 */
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438 /* 5.6 */
#endif
#define PF_P_PIDFD 3 /* 5.4, for waitid; an enumerator of newer C libraries, so a name of our own */
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41 /* 5.17, CONFIG_ANON_VMA_NAME */
#define PR_SET_VMA_ANON_NAME 0
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18 /* 4.14 */
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* 5.14 */
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* 6.1 */
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000 /* 4.17; older kernels take it for a hint */
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8 /* 6.3 */
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x10 /* 5.1 */
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x20 /* 6.3 */
#endif

/* --- userfaultfd(2) ------------------------------------------------------------------------------------------------- */

#define PF_UFFD_API 0xAAULL
#define PF_UFFD_USER_MODE_ONLY 1 /* 5.11 */

/* The other bits are named in src/kernel/names.ts. */
#define PF_UFFD_FEATURE_WP (1ULL << 0)              /* 5.7: write protection */
#define PF_UFFD_FEATURE_SIGBUS (1ULL << 7)          /* 4.14 */
#define PF_UFFD_FEATURE_THREAD_ID (1ULL << 8)       /* 4.14: messages say which thread */
#define PF_UFFD_FEATURE_MINOR_SHMEM (1ULL << 10)    /* 5.14: faults on pages of shared memory that exist, but are not mapped */
#define PF_UFFD_FEATURE_WP_SHMEM (1ULL << 12)       /* 5.19: also of shared memory */
#define PF_UFFD_FEATURE_WP_UNPOPULATED (1ULL << 13) /* 6.4 */
#define PF_UFFD_FEATURE_POISON (1ULL << 14)         /* 6.6 */
#define PF_UFFD_FEATURE_WP_ASYNC (1ULL << 15)       /* 6.7 */
#define PF_UFFD_FEATURE_MOVE (1ULL << 16)           /* 6.8 */

struct pf_uffdio_api {
  uint64_t api, features, ioctls;
};
struct pf_uffdio_range {
  uint64_t start, len;
};
struct pf_uffdio_register {
  struct pf_uffdio_range range;
  uint64_t mode, ioctls;
};
struct pf_uffdio_copy {
  uint64_t dst, src, len, mode;
  int64_t copy;
};
struct pf_uffdio_zeropage {
  struct pf_uffdio_range range;
  uint64_t mode;
  int64_t zeropage;
};
struct pf_uffdio_writeprotect { /* 5.7 */
  struct pf_uffdio_range range;
  uint64_t mode;
};
struct pf_uffdio_continue { /* 5.13 */
  struct pf_uffdio_range range;
  uint64_t mode;
  int64_t mapped;
};
struct pf_uffdio_poison { /* 6.6 */
  struct pf_uffdio_range range;
  uint64_t mode;
  int64_t updated;
};
struct pf_uffdio_move { /* 6.8 */
  uint64_t dst, src, len, mode;
  int64_t move;
};

/* A message of a descriptor without SIGBUS. */
struct pf_uffd_msg {
  uint8_t event, reserved[7];
  union {
    uint64_t flags; /* of PF_UFFD_EVENT_PAGEFAULT */
    uint64_t from;  /* of the others: where the range starts; of FORK, in its lower half, the child's descriptor */
  };
  union {
    uint64_t address;
    uint64_t to; /* the end of a range; of REMAP, where it starts now */
  };
  union {
    struct {
      uint32_t thread, padding;
    };
    uint64_t length; /* of REMAP */
  };
};
_Static_assert(sizeof(struct pf_uffd_msg) == 32, "as the kernel writes them");
#define PF_UFFD_EVENT_PAGEFAULT 0x12
#define PF_UFFD_PAGEFAULT_FLAG_WRITE 1ULL
#define PF_UFFD_PAGEFAULT_FLAG_WP 2ULL
#define PF_UFFD_PAGEFAULT_FLAG_MINOR 4ULL
#define PF_UFFD_EVENT_FORK 0x13
#define PF_UFFD_EVENT_REMAP 0x14
#define PF_UFFD_EVENT_REMOVE 0x15
#define PF_UFFD_EVENT_UNMAP 0x16

#define PF_UFFDIO_REGISTER_MODE_MISSING 1ULL
#define PF_UFFDIO_REGISTER_MODE_WP 2ULL    /* 5.7 */
#define PF_UFFDIO_REGISTER_MODE_MINOR 4ULL /* 5.13 */
#define PF_UFFDIO_CONTINUE_MODE_WP 2ULL   /* 6.4 */
#define PF_UFFDIO_COPY_MODE_DONTWAKE 1ULL  /* the same bit in ZEROPAGE, CONTINUE, POISON and MOVE */
#define PF_UFFDIO_COPY_MODE_WP 2ULL        /* 5.7; in CONTINUE since 6.4 */
#define PF_UFFDIO_WRITEPROTECT_MODE_WP 1ULL
#define PF_UFFDIO_WRITEPROTECT_MODE_DONTWAKE 2ULL
#define PF_UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES 2ULL

#define PF_UFFDIO_API _IOWR(0xAA, 0x3F, struct pf_uffdio_api)
#define PF_UFFDIO_REGISTER _IOWR(0xAA, 0x00, struct pf_uffdio_register)
#define PF_UFFDIO_UNREGISTER _IOR(0xAA, 0x01, struct pf_uffdio_range)
#define PF_UFFDIO_WAKE _IOR(0xAA, 0x02, struct pf_uffdio_range)
#define PF_UFFDIO_COPY _IOWR(0xAA, 0x03, struct pf_uffdio_copy)
#define PF_UFFDIO_ZEROPAGE _IOWR(0xAA, 0x04, struct pf_uffdio_zeropage)
#define PF_UFFDIO_MOVE _IOWR(0xAA, 0x05, struct pf_uffdio_move)
#define PF_UFFDIO_WRITEPROTECT _IOWR(0xAA, 0x06, struct pf_uffdio_writeprotect)
#define PF_UFFDIO_CONTINUE _IOWR(0xAA, 0x07, struct pf_uffdio_continue)
#define PF_UFFDIO_POISON _IOWR(0xAA, 0x08, struct pf_uffdio_poison)

/* A message: `event`, then by event (offsets in bytes) fault: flags 8, address 16, thread 24; fork: descriptor 8; remap: from 8,
 * to 16, length 24; remove and unmap: start 8, end 16. */
#define PF_UFFD_MESSAGE_BYTES 32

/* The device node: an ioctl that makes a userfaultfd, by file permission instead of by privilege. 6.1 */
#define PF_USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)

/* --- PAGEMAP_SCAN on /proc/PID/pagemap, 6.7 ----------------------------------------------------------------------------- */

struct pf_page_region {
  uint64_t start, end, categories;
};
struct pf_pm_scan_arg {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define PF_PAGEMAP_SCAN _IOWR('f', 16, struct pf_pm_scan_arg)
#define PF_PM_SCAN_WP_MATCHING 1ULL
#define PF_PM_SCAN_CHECK_WPASYNC 2ULL
#define PF_PAGE_IS_WRITTEN (1ULL << 1)
#define PF_PAGE_IS_PRESENT (1ULL << 3)
#define PF_PAGE_IS_SWAPPED (1ULL << 4)
#define PF_PAGE_IS_PFNZERO (1ULL << 5)

/* --- pidfds -------------------------------------------------------------------------------------------------------------- */

struct pf_pidfd_info { /* 6.13; the exit code since 6.15 */
  uint64_t mask, cgroupid;
  uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
  int32_t exit_code;
};
#define PF_PIDFD_GET_INFO _IOWR(0xFF, 11, struct pf_pidfd_info)
#define PF_PIDFD_INFO_EXIT (1ULL << 3)

#endif
