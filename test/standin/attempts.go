package standin

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// A KextAttempt is an attempt to load a kernel extension as [KextAttempts] logs it.
type KextAttempt struct {
	ID, Path, Version, TeamID, CDHash string // a TeamID of "" means that it is not signed
}

// KextAttempts returns lines as log(1) prints them, of n attempts to load some kernel
// extensions, which overlap, repeat and fail, and the attempts. The machTimestamp of a
// line, divided by 1000, is the index of its attempt. Within ten seconds from its first message an
// attempt is over; policy blocks it, or it is about to be loaded, then loaded or fails.
func KextAttempts(seed uint64, n int, start time.Time, boot string) (lines []string, attempts []KextAttempt) {
	g := rand.New(rand.NewPCG(seed, 0))
	type message struct {
		at      time.Duration
		mach    int
		process string
		text    string
	}
	var messages []message
	var now time.Duration
	for i := range n {
		now += time.Duration(g.ExpFloat64() * float64(time.Second))
		a := KextAttempt{
			ID: fmt.Sprintf("com.example.kext%d", g.IntN(12)), Path: fmt.Sprintf("/Library/Extensions/k%d.kext", i),
			Version: fmt.Sprintf("1.%d", i), TeamID: fmt.Sprintf("TEAM%06d", i), CDHash: fmt.Sprintf("%040x", i),
		}
		switch g.IntN(6) {
		case 0: // the same bundle as before
			if before := g.IntN(8) + 1; before <= i {
				a = attempts[i-before]
			}
		case 1: // another version of the same team
			if before := g.IntN(8) + 1; before <= i {
				a.TeamID = attempts[i-before].TeamID
				a.ID = attempts[i-before].ID
			}
		case 2:
			a.TeamID = ""
		}
		attempts = append(attempts, a)
		at, over := now, now+9*time.Second
		say := func(process, text string) {
			messages = append(messages, message{at, 1000 * i, process, text})
			at += min(time.Duration(g.ExpFloat64()*float64(800*time.Millisecond)), max(over-at, 0)/2)
		}
		const helper, manager, syspolicy, kernel = "/usr/libexec/kernelmanager_helper", "/usr/libexec/kernelmanagerd", "/usr/libexec/syspolicyd", "/kernel"
		team, signed := a.TeamID, "team("+a.TeamID+")"
		if team == "" {
			team, signed = "(null)", "none"
		}
		if g.IntN(2) == 0 {
			say(helper, fmt.Sprintf("Handling loadOrRebuildRequest: \npaths: [%q],\nidentifiers: []", a.Path))
		}
		for range g.IntN(3) {
			path := a.Path
			if g.IntN(2) == 0 {
				path = fmt.Sprintf("/Library/Other/%d.kext", g.IntN(9))
			}
			say(helper, fmt.Sprintf("checking bundle path %s for Kext %s v%s in executable kext bundle %s at %s", path, a.ID, a.Version, a.ID, path))
		}
		if g.IntN(4) == 0 {
			say(syspolicy, fmt.Sprintf("Kernel Extension BLOCKED: Kext (%s, %s)", team, a.ID))
			if g.IntN(2) == 0 {
				say(manager, "failed to load/rebuild extensions: Extension with identifiers "+a.ID+" not approved to load. Please approve using System Settings.")
			}
			continue
		}
		if g.IntN(3) > 0 {
			say(syspolicy, fmt.Sprintf("Kernel Extension ALLOWED: Kext (%s, %s) version: %s", team, a.ID, a.CDHash))
		}
		say(manager, fmt.Sprintf("directLoadAuxiliaryExtensions: [%s v%s (D850472E) at %s  signed @%s  x]", a.ID, a.Version, a.Path, signed))
		switch g.IntN(4) {
		case 0:
			denied := at
			say(kernel, "Failed to load kext "+a.ID+" (MAC policy error 0x1).")
			at = denied + time.Duration(g.IntN(20))*time.Microsecond // as the kernel does
			say(kernel, "Failed to load kext "+a.ID+" (error 0xdc000001).")
		case 1:
			say(kernel, "Kext "+a.ID+" did not start (return code 0x5).")
		default:
			say(manager, "Received kext load notification: "+a.ID)
		}
	}
	slices.SortStableFunc(messages, func(a, b message) int { return int(a.at - b.at) })
	for i, m := range messages {
		pid := 104
		if m.process == "/kernel" {
			pid = 0
		}
		text, err := json.Marshal(map[string]any{
			"timestamp": start.Add(m.at).Format("2006-01-02 15:04:05.000000-0700"), "machTimestamp": m.mach, "threadID": i,
			"processID": pid, "userID": 0, "processImagePath": m.process, "senderImagePath": m.process, "bootUUID": boot, "eventMessage": m.text,
		})
		if err != nil {
			panic(err)
		}
		lines = append(lines, strings.ReplaceAll(string(text), "/", `\/`))
	}
	return lines, attempts
}
