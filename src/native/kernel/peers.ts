/** The threads that page other processes: `native/binding_peers.c`. */
export interface NativePeers {
  /** An image of files, base first, each of `byteLength` bytes. Its number. -EINVAL: one has another length. */
  snapshotOfFiles(fds: Int32Array, byteLength: number, count: number): number;
  /** An image of an open segment's bytes. Its number. */
  snapshotOfSegment(id: number, byteLength: number): number;
  /** An image of so many bytes of zeroes. Its number. */
  snapshotOfZeroes(byteLength: number): number;
  /** `out`: bytes that are not in holes, runs of them. */
  snapshotExtents(snapshot: number, out: Float64Array): number;
  /** -EBUSY: a peer uses it. */
  snapshotClose(snapshot: number): number;
  /** `out`: the owner's number, its eventfd, which is readable when there are notes. */
  peersOpen(threads: number, out: Int32Array): number;
  /** Kills the processes of the owner that are still paged, but those that are supervised. */
  peersClose(owner: number): number;
  /** Up to 32 notes of five numbers: peer, event (PEER_EVENT), offset, code (for `peerCode`), errno. How many. */
  peersNotes(owner: number, out: Float64Array): number;
  peerCode(code: number): string;
  /**
   * `parts`: descriptors of userfaultfd, process and states, log2 of the page size, flags (PEER_FLAG), number of areas. `areas`: three numbers each: address,
   * length, offset in the snapshot. `out`: the peer's number. Takes the first two descriptors over.
   */
  peerAdd(
    owner: number,
    parts: Int32Array,
    areas: BigUint64Array,
    snapshot: number,
    timeoutMs: number,
    out: Float64Array,
  ): number;
  peerRemove(peer: number, kill: boolean): number;
  /** PEER_NUMBERS, then PEER_BUCKETS of the histogram, then PEER_TIDS times thread, faults, µs. */
  peerLook(peer: number, out: Float64Array): number;
  /**
   * How many areas the memory has now, of which up to `most` are written to `out`: three numbers each, start, end and index of the first page. -ESRCH.
   * `stop`: it has no further turn.
   */
  peerAreas(peer: number, out: BigUint64Array, most: number, stop: boolean): number;
  peerTrace(peer: number, from: number, pages: Uint32Array, atUs: Float64Array, most: number): number;
  peerReplay(peer: number, pages: Uint32Array, count: number): number;
  peerRetry(peer: number): number;
}

/** Bytes of an object for the states of so many pages, and for the journal behind them: PF_PEER_STATES_BYTES. */
export function statesBytes(pages: number): number {
  return Math.ceil(pages / 32) * 32 + 32 * 32;
}

export const PEER_EVENT = ['page-failed', 'gone', 'refused', 'replayed'] as const;
export const PEER_FLAG = { park: 1, record: 2, adopted: 4, supervised: 8, again: 16 } as const;
export const PEER_BUCKETS = 40;
export const PEER_TIDS = 64;
export const PEER_NUMBERS = [
  'faults',
  'demand',
  'prefetched',
  'prefetchHits',
  'zero',
  'removed',
  'deferred',
  'duplicates',
  'failures',
  'retries',
  'present',
  'bytesCopied',
  'blockedUs',
  'pages',
  'atUs',
  'ahead',
  'replayLeft',
  'traceCount',
] as const;
