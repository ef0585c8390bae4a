//! Links, addresses, routes, neighbours, sysctls and namespaces as typed, synchronous, bounded calls.
//! In: values of `model`. Out: what the kernel holds, or one clear error with the kernel's own word for it.
//! Invariant: a socket belongs to the namespace it was opened in; every request has a timeout.
//! Never: decides what should be there.
