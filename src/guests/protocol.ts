/**
 * What a child that is paged and its pager say to each other over a Unix socket: messages of 64 bytes, little-endian. The child's side is
 * `include/pagefault_guest.h`; both hold the same table. Pure functions, any thread.
 *
 *     pager                                        child
 *       │ ── HELLO: store length, wishes ────────▶  │
 *       │ ◀── REGION + its userfaultfd ───────────  │  one for each piece of memory
 *       │ ── ACK: 0, or why it is refused ───────▶  │
 *       │ ── DROP: take these pages away ────────▶  │  (budget)
 *       │ ◀── DROPPED ────────────────────────────  │
 */

export const MESSAGE_BYTES = 64;
export const VERSION = 1;
const MAGIC = 0x31474650; // "PFG1"

const KIND = { hello: 1, region: 2, ack: 3, drop: 4, dropped: 5 } as const;

/** Environment variable that tells the child which descriptor the socket is. */
export const SOCKET_VARIABLE = 'PAGEFAULT_GUEST_FD';

/** Bits of `Hello.flags`. */
export const WISH = { writeProtect: 1, drops: 2 } as const;
/** Bits of `RegionMessage.flags`. */
export const REGION = { userModeOnly: 1, shared: 2, writeProtect: 4 } as const;

const MEMORIES = ['other', 'mmap', 'malloc', 'brk', 'shm', 'hugetlb'] as const;
/** Where the memory of a region lies. */
export type GuestMemoryKind = (typeof MEMORIES)[number];

export interface Hello {
  /** Bits of {@link WISH}. */
  readonly flags: number;
  /** Bytes; 0 where it is not known. */
  readonly storeLength: number;
  /** Bytes; 0 for the system's. */
  readonly pageSize: number;
  /** How long the child waits for an answer. */
  readonly answerMs: number;
}

export interface RegionMessage {
  readonly kind: 'region';
  readonly address: bigint;
  readonly byteLength: number;
  readonly storeOffset: number;
  readonly pageSize: number;
  /** Bits of {@link REGION}. */
  readonly flags: number;
  /** Feature bits of the userfaultfd. */
  readonly features: bigint;
  /** Calls the kernel offers for the range. */
  readonly ioctls: bigint;
  readonly memory: GuestMemoryKind;
  readonly serial: number;
}

export interface DroppedMessage {
  readonly kind: 'dropped';
  readonly address: bigint;
  readonly byteLength: number;
  /** 0, or errno. */
  readonly status: number;
  readonly serial: number;
}

export type GuestMessage = RegionMessage | DroppedMessage;

function message(kind: number, serial: number): { bytes: Uint8Array; data: DataView } {
  const bytes = new Uint8Array(MESSAGE_BYTES);
  const data = new DataView(bytes.buffer);
  data.setUint32(0, MAGIC, true);
  data.setUint32(4, kind, true);
  data.setUint32(60, serial, true);
  return { bytes, data };
}

export function encodeHello(hello: Hello): Uint8Array {
  const { bytes, data } = message(KIND.hello, 0);
  data.setUint32(8, VERSION, true);
  data.setUint32(12, hello.flags, true);
  data.setBigUint64(16, BigInt(hello.storeLength), true);
  data.setUint32(24, hello.pageSize, true);
  data.setUint32(28, hello.answerMs, true);
  return bytes;
}

/** `status` is 0 or an errno. */
export function encodeAck(address: bigint, status: number, serial: number): Uint8Array {
  const { bytes, data } = message(KIND.ack, serial);
  data.setBigUint64(8, address, true);
  data.setUint32(16, status, true);
  return bytes;
}

export function encodeDrop(address: bigint, byteLength: number, serial: number): Uint8Array {
  const { bytes, data } = message(KIND.drop, serial);
  data.setBigUint64(8, address, true);
  data.setBigUint64(16, BigInt(byteLength), true);
  return bytes;
}

/** What a child said, or a sentence about what is wrong with it. The numbers are checked where they are used. */
export function decodeGuestMessage(bytes: Uint8Array): GuestMessage | string {
  const data = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.byteLength !== MESSAGE_BYTES) return `it has ${bytes.byteLength} bytes instead of ${MESSAGE_BYTES}`;
  if (data.getUint32(0, true) !== MAGIC) return 'it does not begin with the magic number PFG1';
  const kind = data.getUint32(4, true);
  const address = data.getBigUint64(8, true);
  const byteLength = Number(data.getBigUint64(16, true));
  const serial = data.getUint32(60, true);
  if (kind === KIND.dropped) {
    return { kind: 'dropped', address, byteLength, status: data.getUint32(24, true), serial };
  }
  if (kind !== KIND.region) return `its kind is ${kind}, which no child sends`;
  return {
    kind: 'region',
    address,
    byteLength,
    storeOffset: Number(data.getBigUint64(24, true)),
    pageSize: data.getUint32(32, true),
    flags: data.getUint32(36, true),
    features: data.getBigUint64(40, true),
    ioctls: data.getBigUint64(48, true),
    memory: MEMORIES[data.getUint32(56, true)] ?? 'other',
    serial,
  };
}
