/**
 * The part of the C core that `pagefault/kernel` is made of: system calls, thin. Every function returns a number of the
 * kernel's kind, a result of at least 0 or a negative errno; none throws, none holds policy, none remembers anything but where it says so.
 * Addresses are bigint, sizes and offsets numbers, flags and modes the kernel's own bits.
 */
import type { NativeGuest } from './kernel/guest.js';
import type { NativeMapping } from './kernel/mapping.js';
import type { NativePeers } from './kernel/peers.js';
import type { NativeProcess } from './kernel/process.js';
import type { NativeUffd } from './kernel/uffd.js';
import type { NativeWatch } from './kernel/watch.js';

export interface NativeKernel extends NativeUffd, NativeMapping, NativeProcess, NativeWatch, NativeGuest, NativePeers {}
