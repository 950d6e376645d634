//! The tables: which system calls, by name and number. Numbers are those of the machine this is built for; a call that
//! an architecture has not (the older ones on aarch64) is in no table of it.

/// A system call, as people and as the kernel know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) name: &'static str,
    pub(super) number: i64,
}

macro_rules! calls {
    ($($(#[$when:meta])* $name:ident,)*) => {
        &[$($(#[$when])* Call { name: stringify!($name), number: libc::$name },)*]
    };
}

/// One call.
macro_rules! call {
    ($name:ident) => {
        $crate::seccomp::calls::Call { name: stringify!($name), number: libc::$name }
    };
}
pub(super) use call;

/// Calls of every daemon that serves, whatever the arguments: found by tracing the daemons through the end-to-end tests
/// with each keystore, and completed by the calls that the C library, the runtime and their next versions make for the
/// same work. Calls for which arguments matter are in [`super::allow`].
pub(super) const SERVING: &[Call] = calls![
    // Descriptors that are open
    SYS_read,
    SYS_write,
    SYS_readv,
    SYS_writev,
    SYS_pread64,
    SYS_pwrite64,
    SYS_preadv,
    SYS_pwritev,
    SYS_preadv2,
    SYS_pwritev2,
    SYS_close,
    SYS_close_range,
    SYS_dup,
    SYS_dup3,
    SYS_lseek,
    SYS_fstat,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_fsync,
    SYS_fdatasync,
    #[cfg(target_arch = "x86_64")]
    SYS_sync_file_range,
    SYS_fadvise64,
    SYS_flock,
    SYS_fchmod,
    SYS_getdents64,
    SYS_fstatfs,
    SYS_pipe2,
    SYS_eventfd2,
    #[cfg(target_arch = "x86_64")]
    SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    SYS_pipe,
    #[cfg(target_arch = "x86_64")]
    SYS_getdents,
    // Files by name; Landlock says which
    SYS_openat,
    SYS_openat2,
    SYS_newfstatat,
    SYS_statx,
    SYS_statfs,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_readlinkat,
    SYS_mkdirat,
    SYS_unlinkat,
    #[cfg(target_arch = "x86_64")]
    SYS_renameat,
    SYS_renameat2,
    SYS_linkat,
    SYS_fchmodat,
    SYS_getcwd,
    SYS_umask,
    SYS_utimensat,
    #[cfg(target_arch = "x86_64")]
    SYS_open,
    #[cfg(target_arch = "x86_64")]
    SYS_stat,
    #[cfg(target_arch = "x86_64")]
    SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    SYS_access,
    #[cfg(target_arch = "x86_64")]
    SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    SYS_rename,
    #[cfg(target_arch = "x86_64")]
    SYS_link,
    #[cfg(target_arch = "x86_64")]
    SYS_chmod,
    // Waiting
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_ppoll,
    SYS_pselect6,
    SYS_nanosleep,
    SYS_clock_nanosleep,
    SYS_restart_syscall,
    #[cfg(target_arch = "x86_64")]
    SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    SYS_poll,
    #[cfg(target_arch = "x86_64")]
    SYS_select,
    // Sockets, once there
    SYS_bind,
    SYS_listen,
    SYS_accept,
    SYS_accept4,
    SYS_connect,
    SYS_getsockname,
    SYS_getpeername,
    SYS_getsockopt,
    SYS_setsockopt,
    SYS_sendto,
    SYS_recvfrom,
    SYS_sendmsg,
    SYS_recvmsg,
    SYS_sendmmsg,
    SYS_recvmmsg,
    SYS_shutdown,
    // Who a caller is
    SYS_pidfd_open,
    // Memory and threads of its own
    SYS_brk,
    SYS_munmap,
    SYS_mremap,
    SYS_madvise,
    SYS_munlock,
    SYS_futex,
    SYS_set_robust_list,
    SYS_rseq,
    SYS_sched_yield,
    SYS_sched_getaffinity,
    SYS_getcpu,
    SYS_exit,
    SYS_exit_group,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sigaltstack,
    // Questions without effect
    SYS_getrandom,
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_gettimeofday,
    SYS_getpid,
    SYS_getppid,
    SYS_gettid,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getresuid,
    SYS_getresgid,
    SYS_getgroups,
    SYS_getrusage,
    SYS_uname,
    SYS_sysinfo,
    #[cfg(target_arch = "x86_64")]
    SYS_time,
    #[cfg(target_arch = "x86_64")]
    SYS_getrlimit,
];

/// As [`SERVING`], for a call that the C library makes and `libc` has no number of.
pub(super) const SERVING_UNNAMED: &[Call] = &[
    // include/uapi/asm-generic/unistd.h; glibc's rename(3)
    #[cfg(target_arch = "aarch64")]
    Call { name: "SYS_renameat", number: 38 },
];

/// Ends a daemon that serves: no path of ours or of a library leads here, only somebody who has taken it over does.
pub(super) const FATAL: &[Call] = calls![
    // Another program
    SYS_execve,
    SYS_execveat,
    // Other processes
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_pidfd_getfd,
    SYS_kcmp,
    // Mounts, roots and namespaces
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_move_mount,
    SYS_open_tree,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_mount_setattr,
    SYS_open_by_handle_at,
    SYS_unshare,
    SYS_setns,
    // The machine
    SYS_kexec_load,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_quotactl,
    SYS_acct,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_sethostname,
    SYS_setdomainname,
    #[cfg(target_arch = "x86_64")]
    SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    SYS_ioperm,
    // Kernel surfaces with a long record of holes; an io_uring also makes sockets past a filter
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
];

/// Calls that neither the daemon that starts containers nor any container may make. Not `bpf`: with cgroup v2 the OCI
/// runtime puts the containers' device rules in force by it. Not `keyctl`: it gives each container a session keyring.
/// Not mounts, namespaces and other programs: they are its work.
pub(super) const NEVER: &[Call] = calls![
    SYS_kexec_load,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_quotactl,
    SYS_acct,
    SYS_syslog,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_add_key,
    SYS_request_key,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_open_by_handle_at,
    SYS_lookup_dcookie,
    SYS_nfsservctl,
    SYS_fanotify_init,
    SYS_migrate_pages,
    SYS_move_pages,
    SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    SYS_modify_ldt,
];
