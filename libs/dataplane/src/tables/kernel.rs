pub struct KernelStore;
