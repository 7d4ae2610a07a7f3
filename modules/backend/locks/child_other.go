//go:build !linux

package locks

import "syscall"

func stopWithParent(*syscall.SysProcAttr) {}
