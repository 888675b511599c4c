"""Which system calls untrusted code may not make: seccomp filters, compiled by libseccomp.

A list of what is denied rather than of what is allowed: Python and its extension modules use most of the rest, and what
the names below do not cover is still subject to namespaces, limits and the lack of any capability.
"""

import errno
import functools
import tempfile

# Network other than pairs inside the process, which asyncio needs; signals to and settings of other processes; the
# kernel's own configuration; memory that RLIMIT_AS does not count and that would outlive the program; calls that
# exploits of the kernel like and Python does not need.
_DENIED = """
    socket connect bind listen accept accept4
    kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal
    ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_getfd
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler setpriority ioprio_set migrate_pages move_pages
    mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr
    unshare setns name_to_handle_at open_by_handle_at
    keyctl add_key request_key bpf perf_event_open userfaultfd vmsplice modify_ldt personality
    io_uring_setup io_uring_enter io_uring_register io_setup io_submit
    kexec_load kexec_file_load init_module finit_module delete_module iopl ioperm lookup_dcookie
    reboot swapon swapoff acct quotactl quotactl_fd syslog vhangup sethostname setdomainname fanotify_init
    settimeofday clock_settime clock_adjtime adjtimex
    shmget shmat shmctl msgget msgsnd msgrcv msgctl semget semop semctl mq_open memfd_create memfd_secret
"""
# The server forks one child for each program and waits for it; the child may do neither.
_DENIED_TO_PROGRAMS = "fork vfork execve execveat pidfd_open"
_CLONE_THREAD = 0x00010000
_UNKNOWN = -1


def is_available() -> bool:
    """Whether filters can be compiled: pyseccomp is installed and finds libseccomp."""
    try:
        import pyseccomp  # noqa: F401  # looks for the library when it is imported
    except (ImportError, OSError, RuntimeError):
        return False
    return True


@functools.cache
def compiled(*, may_fork: bool) -> bytes:
    """The filter as BPF instructions, for the server (``may_fork``) or for programs."""
    from pyseccomp import ALLOW, ERRNO, MASKED_EQ, NE, Arch, Arg, SyscallFilter, resolve_syscall

    # Calls in the manner of another architecture are killed: libseccomp's own default.
    rules = SyscallFilter(ALLOW)
    names = _DENIED if may_fork else f"{_DENIED} {_DENIED_TO_PROGRAMS}"
    for name in names.split():
        # A call that is newer than this libseccomp, or that this architecture lacks, cannot be named.
        if resolve_syscall(Arch.NATIVE, name) != _UNKNOWN:
            rules.add_rule(ERRNO(errno.EPERM), name)
    # As if the kernel did not know it, so that the C library takes clone, whose flags a filter can read.
    rules.add_rule(ERRNO(errno.ENOSYS), "clone3")
    rules.add_rule(ERRNO(errno.EPERM), "prlimit64", Arg(0, NE, 0))
    if not may_fork:
        rules.add_rule(ERRNO(errno.EPERM), "clone", Arg(0, MASKED_EQ, _CLONE_THREAD, 0))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
