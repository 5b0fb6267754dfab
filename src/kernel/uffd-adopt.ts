/** Taking over a userfaultfd that somebody else made: one that came over a socket, or was inherited. Any thread. */

import { constants as file } from 'node:fs';
import { constants } from 'node:os';
import { shown, wrongType } from '../errors/argument.js';
import { native } from '../native/load.js';
import { checkKeys } from '../options/keys.js';
import { checkFd, descriptorInfo, descriptorTarget, systemError, wrongDescriptor } from './descriptor.js';
import { FEATURES, toBits, type UffdFeature } from './names.js';
import { type OpenedUffd, probeFeatures, shakeHands } from './uffd-open.js';

export interface AdoptOptions {
  /**
   * The maker has not made the handshake (UFFDIO_API): make it.
   * @default false
   */
  handshake?: boolean;
  /** Only with `handshake`: features that must be there. */
  features?: readonly UffdFeature[] | bigint;
  /** Only with `handshake`: features that are taken where the kernel has them. */
  optionalFeatures?: readonly UffdFeature[] | bigint;
}

/** The kernel marks a context whose handshake is done with this bit of its features (5.16); it is no feature. */
const INITIALIZED = 1n << 31n;
const OWN_IOCTLS = (1n << 63n) | 3n;
const USER_MODE_ONLY = 1;

/** Flags of the descriptor, and features as the kernel's bookkeeping has them (0n where /proc does not tell). */
function about(who: string, fd: number): { flags: number; features: bigint } {
  const text = descriptorInfo(who, fd);
  const flags = /^flags:\s*([0-7]+)$/m.exec(text)?.[1] ?? '0';
  const features = /^API:\s*[0-9a-f]+:([0-9a-f]+):/m.exec(text)?.[1] ?? '0';
  return { flags: Number.parseInt(flags, 8), features: BigInt(`0x${features}`) };
}

/** See `Uffd.fromFd`. On failure the descriptor stays the caller's. */
export function adoptUffd(fd: number, options: AdoptOptions): OpenedUffd {
  const who = 'Uffd.fromFd';
  checkFd(who, fd);
  checkKeys(who, options, ['handshake', 'features', 'optionalFeatures']);
  const { handshake = false, features = 0n, optionalFeatures = 0n } = options;
  if (typeof handshake !== 'boolean') {
    throw wrongType(`${who}: option 'handshake' must be true or false, not ${shown(handshake)}`);
  }
  const required = toBits(`${who}: option 'features'`, features, FEATURES);
  const optional = toBits(`${who}: option 'optionalFeatures'`, optionalFeatures, FEATURES);
  if (!handshake && (required | optional) !== 0n) {
    throw wrongType(`${who}: features are asked for in the handshake, so they need handshake: true`);
  }
  if (descriptorTarget(fd) !== 'anon_inode:[userfaultfd]') throw wrongDescriptor(who, fd, 'a userfaultfd');
  const known = about(who, fd);
  const common = {
    fd,
    neededIoctls: 0n,
    userModeOnly: undefined,
    openedBy: 'adopted' as const,
    nonBlocking: (known.flags & file.O_NONBLOCK) !== 0,
  };
  if (!handshake) return { ...common, features: known.features & ~INITIALIZED, offered: undefined, ioctls: OWN_IOCTLS };
  if ((known.features & INITIALIZED) !== 0n) {
    const sentence = `${who}: the handshake of descriptor ${fd} has been made already, and the kernel allows one; leave out handshake: true`;
    throw systemError(sentence, constants.errno.EINVAL, 'ioctl(UFFDIO_API)');
  }
  const probe = (): bigint | undefined => probeFeatures(native().uffdOpen(USER_MODE_ONLY, -1));
  return { ...common, ...shakeHands(who, fd, required, optional, probe) };
}
