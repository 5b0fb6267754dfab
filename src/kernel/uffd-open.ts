/** Where userfaultfds come from: the device node, the system call, an inherited device descriptor; and their handshake. Any thread. */

import { closeSync, constants as file, fstatSync, openSync } from 'node:fs';
import { constants } from 'node:os';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { errnoNames } from '../errors/from-native.js';
import { PermissionError } from '../errors/permission-error.js';
import { UnsupportedError } from '../errors/unsupported-error.js';
import { native } from '../native/load.js';
import { checkKeys } from '../options/keys.js';
import { checkFd, NO_DESCRIPTOR, systemError, wrongDescriptor } from './descriptor.js';
import { FlagSet } from './flags.js';
import {
  EVENT_FORK,
  FEATURES,
  IOCTLS,
  namesOf,
  toBits,
  type UffdFeature,
  type UffdIoctl,
  WP_ASYNC,
  WP_UNPOPULATED,
} from './names.js';

export interface UffdOptions {
  /**
   * The descriptor does not survive exec.
   * @default true
   */
  closeOnExec?: boolean;
  /**
   * Reading it never blocks. The event loop can watch only such a descriptor.
   * @default true
   */
  nonBlocking?: boolean;
  /**
   * Only faults in user code are reported; a fault in a system call (`read` into missing memory) is EFAULT there. Linux 5.11. `false` needs
   * CAP_SYS_PTRACE, the sysctl vm.unprivileged_userfaultfd, or the device.
   * @default false where the process may, else true
   */
  userModeOnly?: boolean;
  /** Features that must be there, by name or as bits. What the kernel lacks is named in `missing` of the UnsupportedError. */
  features?: readonly UffdFeature[] | bigint;
  /** Features that are taken where the kernel has them (and the process may have them). */
  optionalFeatures?: readonly UffdFeature[] | bigint;
  /** Calls that must be there: of the descriptor now, of a range when it is registered. */
  ioctls?: readonly UffdIoctl[];
  /**
   * `'auto'`: /dev/userfaultfd first (6.1), the system call where the node is missing or may not be opened. `'never'`: the system call.
   * A string: this node, no other way. A number: a descriptor of the node, inherited or received; it stays the caller's. It works for a process
   * that has no privilege and whose seccomp filter refuses the system call, for faults in the kernel too.
   * @default 'auto'
   */
  device?: 'auto' | 'never' | string | number;
}

/** How a descriptor was come by. */
export type UffdOrigin = 'device' | 'syscall' | 'descriptor' | 'adopted';

/** A descriptor after its handshake, and what is known of it. */
export interface OpenedUffd {
  fd: number;
  /** Bits in effect. */
  features: bigint;
  /** Bits that the kernel has; undefined: not told. */
  offered: bigint | undefined;
  ioctls: bigint;
  /** Bits of the ioctls that `register` must find. */
  neededIoctls: bigint;
  userModeOnly: boolean | undefined;
  openedBy: UffdOrigin;
  nonBlocking: boolean;
}

interface Settings {
  flags: number;
  userModeOnly: boolean | undefined;
  features: bigint;
  optional: bigint;
  ioctls: bigint;
  device: string | number;
}

interface Maker {
  /** -1: the system call. */
  device: number;
  by: UffdOrigin;
  /** The device descriptor is ours to close. */
  owned: boolean;
}

const DEVICE = '/dev/userfaultfd';
const O_CLOEXEC = 0o2000000;
const { O_NONBLOCK, O_RDWR } = file;
const USER_MODE_ONLY = 1;
/** ioctls of the descriptor; the others are of ranges. */
const OWN_IOCTLS = (1n << 63n) | 3n;
const { EPERM, EACCES, EINVAL, ENOSYS, ENOTTY, EBADF } = constants.errno;

const KERNEL_FAULTS =
  'faults inside the kernel are reported only to a process with CAP_SYS_PTRACE, or where the sysctl vm.unprivileged_userfaultfd is 1, or one that may open /dev/userfaultfd; userModeOnly: true needs none of these';
const REFUSED =
  'the system call userfaultfd is refused even for faults of user code, as the seccomp filter of a container does: allow the call, or hand the process a descriptor of /dev/userfaultfd (option device)';

function flag(options: UffdOptions, name: 'closeOnExec' | 'nonBlocking' | 'userModeOnly'): boolean | undefined {
  const value: unknown = options[name];
  if (value === undefined || typeof value === 'boolean') return value;
  throw wrongType(`Uffd.open: option '${name}' must be true or false, not ${shown(value)}`);
}

function settingsOf(options: UffdOptions): Settings {
  const known = ['closeOnExec', 'nonBlocking', 'userModeOnly', 'features', 'optionalFeatures', 'ioctls', 'device'];
  checkKeys('Uffd.open', options, known);
  const { device = 'auto' } = options;
  if (typeof device === 'number') checkFd('Uffd.open: option device', device);
  else if (typeof device !== 'string' || device === '') {
    throw wrongType(`Uffd.open: option 'device' must be 'auto', 'never', a path or a descriptor, not ${shown(device)}`);
  }
  return {
    flags:
      ((flag(options, 'closeOnExec') ?? true) ? O_CLOEXEC : 0) |
      ((flag(options, 'nonBlocking') ?? true) ? O_NONBLOCK : 0),
    userModeOnly: flag(options, 'userModeOnly'),
    features: toBits("Uffd.open: option 'features'", options.features ?? 0n, FEATURES),
    optional: toBits("Uffd.open: option 'optionalFeatures'", options.optionalFeatures ?? 0n, FEATURES),
    ioctls: toBits("Uffd.open: option 'ioctls'", options.ioctls ?? 0n, IOCTLS),
    device,
  };
}

/** The ways to try, in their order. */
function* makers(device: string | number): Generator<Maker> {
  if (typeof device === 'number') {
    yield { device, by: 'descriptor', owned: false };
    return;
  }
  if (device !== 'never') {
    try {
      const path = device === 'auto' ? DEVICE : device;
      yield { device: openSync(path, O_RDWR | O_CLOEXEC), by: 'device', owned: true };
    } catch (error) {
      if (device !== 'auto') throw unopened(device, error);
      // Another way may report less, only faults of user code: no answer to a full table of descriptors.
      if (NO_DESCRIPTOR[errnoOf(error)] !== undefined) throw unopened(DEVICE, error);
    }
    if (device !== 'auto') return;
  }
  yield { device: -1, by: 'syscall', owned: false };
}

function errnoOf(error: unknown): number {
  return -((error as NodeJS.ErrnoException).errno ?? 0);
}

function unopened(path: string, error: unknown): Error {
  const errno = errnoOf(error);
  const { code } = errnoNames(errno);
  if (errno === EACCES || errno === EPERM) {
    const sentence = `Uffd.open: this process may not open ${path} (${code}): give it access to the node, hand it a descriptor, or use device: 'never' with userModeOnly: true`;
    return new PermissionError(sentence, { cause: error, errno, syscall: 'open' });
  }
  const why = NO_DESCRIPTOR[errno];
  const sentence = `Uffd.open: the device ${path} cannot be opened${why === undefined ? '' : `: ${why}`}`;
  return systemError(sentence, errno, 'open');
}

function isCharacterDevice(fd: number): boolean {
  try {
    return fstatSync(fd).isCharacterDevice();
  } catch {
    return false;
  }
}

/** A descriptor, or a negative errno. */
function make(maker: Maker, settings: Settings): { fd: number; userModeOnly: boolean } {
  const { userModeOnly, flags } = settings;
  if (userModeOnly !== true) {
    const fd = native().uffdOpen(flags, maker.device);
    if (userModeOnly === false || fd !== -EPERM) return { fd, userModeOnly: false };
  }
  return { fd: native().uffdOpen(flags | USER_MODE_ONLY, maker.device), userModeOnly: true };
}

function notMade(errno: number, maker: Maker, userModeOnly: boolean): Error {
  const syscall = maker.device < 0 ? 'userfaultfd' : 'ioctl(USERFAULTFD_IOC_NEW)';
  if (maker.device >= 0 && (errno === ENOTTY || errno === EBADF)) {
    return wrongDescriptor('Uffd.open: option device', maker.device, 'a descriptor of /dev/userfaultfd');
  }
  if (errno === EPERM) {
    return new PermissionError(`Uffd.open: ${userModeOnly ? REFUSED : KERNEL_FAULTS}`, { errno, syscall });
  }
  if (errno === ENOSYS) {
    return new UnsupportedError('Uffd.open: this kernel is built without userfaultfd', undefined, ['userfaultfd']);
  }
  if (errno === EINVAL && userModeOnly) {
    return new UnsupportedError('Uffd.open: userModeOnly needs Linux 5.11', undefined, ['user-mode-only']);
  }
  return systemError(`Uffd.open: ${NO_DESCRIPTOR[errno] ?? 'no userfaultfd can be had'}`, errno, syscall);
}

/** What the kernel has, asked of a descriptor that is made for that and closed; undefined where none can be had. */
export function probeFeatures(fd: number): bigint | undefined {
  if (fd < 0) return undefined;
  const out = new BigUint64Array(2);
  const errno = -native().uffdHandshake(fd, 0n, out);
  native().descriptorClose(fd);
  return errno === 0 ? out[0] : undefined;
}

export interface Handshake {
  features: bigint;
  offered: bigint;
  ioctls: bigint;
}

function refusedHandshake(who: string, errno: number, required: bigint, offered: bigint | undefined): Error {
  const missing = new FlagSet(offered === undefined ? 0n : required & ~offered, FEATURES);
  if (errno === EPERM) {
    const sentence = `${who}: the feature event-fork needs CAP_SYS_PTRACE`;
    return new PermissionError(sentence, { errno, syscall: 'ioctl(UFFDIO_API)' });
  }
  if (errno === EINVAL && missing.bits !== 0n) {
    const sentence = `${who}: this kernel's userfaultfd lacks ${missing}; it has ${new FlagSet(offered ?? 0n, FEATURES)}`;
    return new UnsupportedError(sentence, undefined, namesOf(missing.bits, FEATURES));
  }
  const asked = offered === undefined && required !== 0n ? ` with ${new FlagSet(required, FEATURES)}` : '';
  return systemError(`${who}: the handshake${asked} was refused`, errno, 'ioctl(UFFDIO_API)');
}

/** The kernel turns wp-unpopulated on with wp-async. */
function withImplied(features: bigint): bigint {
  return (features & WP_ASYNC) === 0n ? features : features | WP_UNPOPULATED;
}

/**
 * UFFDIO_API with all that is wanted, then with less of the optional part. `probe` tells what the kernel has: after a refusal the kernel says
 * nothing, but the same descriptor may try again.
 */
export function shakeHands(
  who: string,
  fd: number,
  required: bigint,
  optional: bigint,
  probe: () => bigint | undefined,
): Handshake {
  const out = new BigUint64Array(2);
  let offered: bigint | undefined;
  let wanted = required | optional;
  for (;;) {
    const errno = -native().uffdHandshake(fd, wanted, out);
    if (errno === 0) return { features: withImplied(wanted), offered: out[0] ?? 0n, ioctls: out[1] ?? 0n };
    const before = wanted;
    if (errno === EPERM) wanted &= ~(EVENT_FORK & ~required);
    if (errno === EINVAL) {
      offered ??= probe();
      wanted = required | (wanted & (offered ?? 0n));
    }
    if (wanted === before || (required & ~(offered ?? required)) !== 0n) {
      throw refusedHandshake(who, errno, required, offered);
    }
  }
}

function checkIoctls(needed: bigint, present: bigint): void {
  const missing = new FlagSet(needed & OWN_IOCTLS & ~present, IOCTLS);
  if (missing.bits === 0n) return;
  throw new UnsupportedError(
    `Uffd.open: this userfaultfd lacks the ioctls ${missing}`,
    undefined,
    namesOf(missing.bits, IOCTLS),
  );
}

function complete(maker: Maker, settings: Settings, fd: number, userModeOnly: boolean): OpenedUffd {
  const { features, optional, ioctls: neededIoctls, flags } = settings;
  try {
    const got = shakeHands('Uffd.open', fd, features, optional, () => probeFeatures(make(maker, settings).fd));
    checkIoctls(neededIoctls, got.ioctls);
    return { fd, ...got, neededIoctls, userModeOnly, openedBy: maker.by, nonBlocking: (flags & O_NONBLOCK) !== 0 };
  } catch (error) {
    native().descriptorClose(fd);
    throw error;
  }
}

/** See `Uffd.open`. On failure no descriptor is left open. */
export function openUffd(options: UffdOptions): OpenedUffd {
  const settings = settingsOf(options);
  let failure: Error | undefined;
  for (const maker of makers(settings.device)) {
    try {
      if (maker.device >= 0 && !isCharacterDevice(maker.device)) {
        throw wrongDescriptor('Uffd.open: option device', maker.device, 'a descriptor of /dev/userfaultfd');
      }
      const { fd, userModeOnly } = make(maker, settings);
      if (fd >= 0) return complete(maker, settings, fd, userModeOnly);
      failure = notMade(-fd, maker, userModeOnly);
      if (NO_DESCRIPTOR[-fd] !== undefined) break;
    } finally {
      if (maker.owned) closeSync(maker.device);
    }
  }
  throw failure ?? outOfRange('Uffd.open: no way to open one');
}
