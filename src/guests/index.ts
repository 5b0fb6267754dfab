/** `pagefault/guests`: pages for other processes. */
export {};
