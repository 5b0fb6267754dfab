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
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41 /* 5.17, CONFIG_ANON_VMA_NAME */
#define PR_SET_VMA_ANON_NAME 0
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18 /* 4.14 */
#endif

#define PF_UFFD_API 0xAAULL
#define PF_UFFD_USER_MODE_ONLY 1 /* 5.11 */

#define PF_UFFD_FEATURE_SIGBUS (1ULL << 7) /* 4.14 */

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

#define PF_UFFDIO_REGISTER_MODE_MISSING 1ULL
#define PF_UFFDIO_COPY_MODE_DONTWAKE 1ULL

#define PF_UFFDIO_API _IOWR(0xAA, 0x3F, struct pf_uffdio_api)
#define PF_UFFDIO_REGISTER _IOWR(0xAA, 0x00, struct pf_uffdio_register)
#define PF_UFFDIO_UNREGISTER _IOR(0xAA, 0x01, struct pf_uffdio_range)
#define PF_UFFDIO_COPY _IOWR(0xAA, 0x03, struct pf_uffdio_copy)
#define PF_UFFDIO_ZEROPAGE _IOWR(0xAA, 0x04, struct pf_uffdio_zeropage)

/* The device node: an ioctl that makes a userfaultfd, by file permission instead of by privilege. 6.1 */
#define PF_USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)

#endif
