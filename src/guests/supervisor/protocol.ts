/**
 * What a daemon and its supervisor say to each other over a Unix socket: a head of 16 bytes, little-endian, then a body of JSON. Descriptors
 * come with the first byte of the head, which tells how many. Pure functions, any thread.
 *
 *     daemon                                            supervisor
 *       │ ── hello: version, deadline ───────────────▶  │
 *       │ ◀── welcome: how many guests are held ──────  │  or refused
 *       │ ── hold + userfaultfd, pidfd, states ──────▶  │  one guest at a time
 *       │ ◀── held: its number ───────────────────────  │
 *       │ ── next ───────────────────────────────────▶  │  of those that lost their daemon
 *       │ ◀── guest + its descriptors ────────────────  │  or none
 *       │ ── serving: the number ────────────────────▶  │  from here on it is this daemon's
 *       │ ── drop: the number ───────────────────────▶  │  the guest is gone, or nobody's concern any more
 *       │ ◀── leave ──────────────────────────────────  │  another daemon wants to go on: end, and kill nobody
 *       │ ── listen: a path (+ a socket) ─────────────▶  │  where guests connect: has the supervisor the socket of the daemon before? Or here it is
 *       │ ◀── listening (+ the socket), or none ──────  │  from here on it is the supervisor that accepts
 *       │ ◀── connection + its descriptor ────────────  │  somebody has come
 *       │ ── again: its number ──────────────────────▶  │  its descriptor had no room in this process
 *       │ ── take: its number ───────────────────────▶  │  before a byte of it is read: it dies with this daemon now, or is held whole
 *       │ ── unlisten ───────────────────────────────▶  │  nobody comes any more
 */

export const VERSION = 2;
export const HEAD_BYTES = 16;
/** "PFS1" */
const MAGIC = 0x31534650;
/** Of a body: a guest with a thousand regions has some 60 KiB. */
export const MOST_BYTES = 1_048_576;
/** The descriptors of a guest, in this order: pidfd, userfaultfd, states. */
export const GUEST_FDS = 3;

const KINDS = [
  'hello',
  'welcome',
  'refused',
  'hold',
  'held',
  'next',
  'guest',
  'none',
  'serving',
  'drop',
  'done',
  'leave',
  'listen',
  'listening',
  'connection',
  'take',
  'unlisten',
  'again',
] as const;
export type Kind = (typeof KINDS)[number];

/** A message without its descriptors. */
export interface Message {
  readonly kind: Kind;
  readonly body: Readonly<Record<string, unknown>>;
}

/** What a head says. */
export interface Head {
  readonly kind: Kind;
  readonly byteLength: number;
  readonly fds: number;
}

export function encodeMessage({ kind, body }: Message, fds: number): Uint8Array {
  const text = Buffer.from(JSON.stringify(body));
  const bytes = new Uint8Array(HEAD_BYTES + text.byteLength);
  const data = new DataView(bytes.buffer);
  data.setUint32(0, MAGIC, true);
  data.setUint32(4, KINDS.indexOf(kind) + 1, true);
  data.setUint32(8, text.byteLength, true);
  data.setUint32(12, fds, true);
  bytes.set(text, HEAD_BYTES);
  return bytes;
}

/** Or a sentence about what is wrong with it. */
export function decodeHead(bytes: Uint8Array): Head | string {
  const data = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (data.getUint32(0, true) !== MAGIC) return 'a message does not begin with the magic number PFS1';
  const number = data.getUint32(4, true);
  const kind = KINDS[number - 1];
  if (kind === undefined) return `there is no message of kind ${number}`;
  const byteLength = data.getUint32(8, true);
  if (byteLength > MOST_BYTES) return `a message of ${byteLength} bytes is longer than ${MOST_BYTES}`;
  const fds = data.getUint32(12, true);
  if (fds > GUEST_FDS) return `a message with ${fds} descriptors has more than ${GUEST_FDS}`;
  return { kind, byteLength, fds };
}

/** Or a sentence about what is wrong with it. */
export function decodeBody(bytes: Uint8Array): Message['body'] | string {
  try {
    const value: unknown = JSON.parse(Buffer.from(bytes).toString('utf8'));
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Message['body'];
  } catch {
    // told below
  }
  return 'the body of a message is no JSON object';
}

/** A number of the body, within bounds; undefined: there is none that is right. */
export function numberOf(body: Message['body'], name: string, least: number, most: number): number | undefined {
  const value = body[name];
  if (typeof value !== 'number' || !Number.isInteger(value) || value < least || value > most) return undefined;
  return value;
}

/** The sentence of a refusal. */
export function sentenceOf(body: Message['body']): string {
  return typeof body['why'] === 'string' ? body['why'] : 'it gave no reason';
}
