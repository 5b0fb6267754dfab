/** `pagefault/kernel`: userfaultfd(2) and what belongs beside it, typed and thin. */

export type { ChildStatus } from './child-status.js';
export { closeFd } from './close-fd.js';
export { type HasFd, type Received, type ReceiveOptions, receiveFds, sendFds } from './fd-passing.js';
export { FlagSet } from './flags.js';
export { hugePageSizes } from './huge-pages.js';
export { Mapping, type MappingKind } from './mapping.js';
export type { FileOptions } from './mapping-file.js';
export type { AnonymousOptions, HeapOptions } from './mapping-make.js';
export type { Advice, Protection } from './mapping-options.js';
export type { PatchOptions, PatchSource } from './mapping-patch.js';
export { Memfd, type MemfdOptions, type Seal } from './memfd.js';
export type { UffdFeature, UffdIoctl, UffdMode } from './names.js';
export { PageScanError } from './page-scan-error.js';
export { PidFd } from './pidfd.js';
export { type Finding, type KernelProbe, probe } from './probe.js';
export { readProcessMemory } from './process-memory.js';
export { pageSize, type Range } from './range.js';
export {
  type PageCategory,
  type PageSpan,
  type ScanPagesOptions,
  type ScanWrittenOptions,
  scanPages,
  scanWritten,
} from './scan-pages.js';
export { SignalFd, type SignalFdOptions, type SignalInfo } from './signalfd.js';
export { Uffd } from './uffd.js';
export type { AdoptOptions } from './uffd-adopt.js';
export type {
  ForkEvent,
  PagefaultEvent,
  RemapEvent,
  RemoveEvent,
  UffdEvent,
  UnknownEvent,
  UnmapEvent,
} from './uffd-events.js';
export type { MoveOptions, WakeOption, WriteProtectOption } from './uffd-modes.js';
export type { UffdOptions, UffdOrigin } from './uffd-open.js';
export type { Resolution, ResolveOptions } from './uffd-resolve.js';
export { type ListenOptions, UnixListener } from './unix-listener.js';
export { type Peer, UnixSocket, type UnixSocketOptions } from './unix-socket.js';
export { useDevice } from './use-device.js';
export { type Readable, Watch, type WatchOptions, watch } from './watch.js';
