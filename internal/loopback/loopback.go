// Package loopback tells this machine from others.
package loopback

import "net"

// Host says whether a URL's host, without its port, is this machine itself: there plain http is as good
// as https.
func Host(name string) bool {
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}
