// The program of the pod sandbox. No dependencies.
module ekstra.dev/components/pause

go 1.25.0
