/** The child's side of a process that another one pages: `native/binding_guest.c`. */
export interface NativeGuest {
  /** True in a process that `spawnPaged` started and that has not attached yet. */
  guestIsExpected(): boolean;
}
