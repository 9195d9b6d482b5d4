# Relative change of every module's output since its branch's last full evaluation, block by step, one panel a branch.
# Of each block the rows from bottom to top are its modules in order (attention, MLP). Refreshes are marked above a panel,
# changes between guided and unguided steps by dashed lines. Reads delta.tsv and schedule.tsv.
if (!exists("ousac_common")) load "plots/common.gp"
file = tables."delta.tsv"
steps_file = tables."schedule.tsv"

rows = 0; modules = 0; blocks = 0; steps = 0; high = 0.0; low = 1e300; full = 0; turns = 0; known = 0
extent(v) = v > 0 ? (known = known + 1, high = max2(high, v), low = min2(low, v)) : 0
stats file using (rows = rows + 1, modules = max2(modules, column("row") + 1), blocks = max2(blocks, column("block") + 1), \
                  steps = max2(steps, column("step") + 1)) nooutput
stats file using (extent(column("relative_delta"))) nooutput
stats file using (add(strcol("branch"))) nooutput
if (rows > 0) { stats steps_file using (turns = turns + column("transition")) nooutput }
branches = words(words_seen)

per = blocks > 0 ? real(modules) / blocks : 1
panel_height = max2(150, min2(420, 8 * modules))
panel_lines = int(min2(modules, 120) + 7)
height = known > 0 ? 40.0 + branches * (panel_height + 85) : 300.0
eval start(860, height, known > 0 ? branches * panel_lines + 4 : 20)
if (known == 0) {
    set xlabel "denoising step (0 is the noisiest)"; set ylabel "block (index)"
    eval say_nothing
} else {
    low = max2(low, high / 1000)
    set logscale cb
    set cbrange [low:high > low ? high : 2 * low]
    set format cb "%g"
    if (high < 300 * low) { eval "set cbtics (".tics_125.")" }
    set cblabel "||out - cached|| / ||out|| (no unit)"
    set xrange [-0.5:steps - 0.5]
    # In text a marker takes a whole line, which must not be the label's.
    top = text ? blocks * (1 + 3.0 / panel_lines) : blocks * 1.08
    mark = text ? blocks * (1 + 1.5 / panel_lines) : blocks * 1.04
    set yrange [0:top]
    set xtics tic_step(steps, 25)
    block_tics = ""
    do for [b = 0:blocks - 1:tic_step(blocks, 14)] {
        block_tics = block_tics.sprintf("%s'%d' %g", strlen(block_tics) ? ", " : "", b, b + 0.5)
    }
    eval "set ytics nomirror out (".block_tics.")"
    set ylabel "block (index)"
    unset grid
    # On a narrow terminal the key has no room beside the label.
    if (text) { unset key } else { set key at graph 1, graph 1.02 right bottom horizontal }
    # A shade per decile for text.
    digit(v) = int(9.999 * (log(max2(v, low)) - log(low)) / max2(1e-9, log(high) - log(low)))
    many = rows > 12000 && steps > 1 && modules > 1
    set multiplot layout branches, 1 margins screen (text ? 0.12 : 0.08), (text ? 0.98 : 0.86), \
        (text ? 4.0 / (branches * panel_lines + 4) : 75 / height), (text ? 0.95 : 1 - 45 / height) spacing screen 0, (text ? 4.0 / (branches * panel_lines + 4) : 80 / height)
    steps_said = text ? "denoising step; v refresh (full)".(turns > 0 ? ", | guidance changes" : "") : "denoising step (0 is the noisiest)"
    do for [b = 1:branches] {
        branch = word(words_seen, b)
        mine(v) = strcol("branch") eq branch ? v : NaN
        shown(v) = mine(v) >= 0 ? max2(v, low) : NaN
        if (b > 1) { unset key }
        if (b == branches) { set xlabel steps_said } else { unset xlabel }
        set label 1 (branch eq "cond" ? "conditional branch" : "unconditional branch") at graph 0, graph 1.02 left offset (text ? 2 : 0), (text ? 0 : 0.7)
        turn_line = turns > 0 ? ", steps_file using (column('transition') == 1 ? column('step') - 0.5 : NaN):(0):(0):(blocks) ".\
            "with vectors nohead lc rgb vermillion lw 1.6 dt (6, 4) title 'guidance changes'" : ""
        refresh = ", steps_file using 'step':(column(branch) == 0 ? mark : NaN) ".\
            "with points pt 11 ps 0.7 lc rgb vermillion title 'refresh (full)'"
        if (text) {
            if (b == 1) { set label 1 sprintf("%s; 0 is %.2g, 9 is %.2g", branch, low, high) at graph 0, graph 1.02 left offset (text ? 2 : 0), (text ? 0 : 0.7) }
            eval "plot file using 'step':(shown(column('relative_delta')) > 0 ? (column('row') + 0.5) / per : NaN):".\
                "(sprintf('%d', digit(column('relative_delta')))) with labels notitle".\
                ", steps_file using 'step':(column(branch) == 0 ? mark : NaN) with points pt 'v' title 'v refresh (full)'".\
                (turns > 0 ? ", steps_file using (column('transition') == 1 ? column('step') - 0.5 : NaN):(mark) with points pt '|' title '| guidance changes'" : "")
        } else {
            if (many) {
                eval "plot file using 'step':((column('row') + 0.5) / per):(shown(column('relative_delta'))) with image notitle".\
                    turn_line.refresh
            } else {
                eval "plot file using 'step':(shown(column('relative_delta')) > 0 ? (column('row') + 0.5) / per : NaN):".\
                    "(0.52):(0.52 / per):(shown(column('relative_delta'))) with boxxyerror lc palette notitle".turn_line.refresh
            }
        }
    }
    unset multiplot
}
