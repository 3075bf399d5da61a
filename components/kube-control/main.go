// Package main is the control plane of a cluster as one multi-call program:
// kube-apiserver, kube-controller-manager and kube-scheduler of the pinned
// Kubernetes release, chosen by the name it is called by or by the first
// argument.
//
// Invariant: each of the three behaves exactly as its upstream main does: same
// command, same component-base/cli.Run, same registrations below. What is added
// is memory.go, which changes nothing that they do.
//
// These files are compiled with the go.mod of each offered minor.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	_ "time/tzdata" // for the time zones of CronJobs

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client-go's metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // build_info
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// command builds the root command of one component; nil for another name.
// Only the chosen one is built: they share global feature gates.
func command(name string) *cobra.Command {
	switch name {
	case "kube-apiserver":
		return apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		return controllermanager.NewControllerManagerCommand()
	case "kube-scheduler":
		return scheduler.NewSchedulerCommand()
	}
	return nil
}

// choose takes the component from argv[0]; failing that, from the first
// argument, which is then removed so that flags parse as upstream's do.
func choose() *cobra.Command {
	if chosen := command(filepath.Base(os.Args[0])); chosen != nil {
		return chosen
	}
	if len(os.Args) > 1 {
		if chosen := command(filepath.Base(os.Args[1])); chosen != nil {
			os.Args = os.Args[1:]
			return chosen
		}
	}
	return nil
}

func main() {
	chosen := choose()
	if chosen == nil {
		fmt.Fprintln(os.Stderr, "usage: kube-control kube-apiserver|kube-controller-manager|kube-scheduler [flags]")
		os.Exit(2)
	}
	go giveBack()
	os.Exit(cli.Run(chosen))
}
