# Cost of a trajectory against error of the final sample, with 95 % intervals over samples: ours, the baselines, and as ends
# the exact run and plain reuse. A panel for each schedule. Reads pareto.tsv.
if (!exists("ousac_common")) load "plots/common.gp"
file = tables."pareto.tsv"

rows = 0; panels = 0; lines = 0; low = 1e300; high = 0.0; left = 1e300; right = 0.0
stats file using (rows = rows + 1, panels = max2(panels, column("panel") + 1), lines = max2(lines, column("series") + 1), \
                  left = min2(left, column("macs")), right = max2(right, column("macs"))) nooutput
stats file using (column("error") > 0 ? (low = min2(low, min2(column("error"), max2(column("low"), column("error") / 10))), \
                  high = max2(high, column("high"))) : 0) nooutput
down = max2(1, int(panels))
eval start(860, rows > 0 ? 60 + (panels > 1 ? 340 : 420) * down : 300, rows > 0 ? 26 * down : 20)
set xlabel "MACs of the trajectory (% of the reference run)"
set ylabel "relative error of the final sample (no unit)"
if (rows == 0) {
    eval say_nothing
} else {
    if (high <= 0) { low = 0.1; high = 1 }
    floor_at = low / 4
    set logscale y
    set format y "%g"
    set yrange [floor_at / 2:high * 2]
    set xrange [max2(0, 100 * (left - 0.12 * max2(right - left, 0.05))):100 * (right + 0.12 * max2(right - left, 0.05))]
    set grid xtics ytics lc rgb "#808080" lw 0.4 dt (2, 4)
    if (lines > 4) { set key outside right top vertical } else { set key inside top right vertical }
    set datafile missing NaN # lines go on over the rows of other series
    eval log_tics(floor_at, high)
    set multiplot layout down, 1
    do for [p = 0:panels - 1] {
        title = ""
        stats file using (column("panel") == p ? (title = strcol("panel_label"), 0) : 0) nooutput
        set title title
        command = ""; baseline = 0; ours = 0
        do for [s = 0:lines - 1] {
            n = 0; role = ""; series = ""; positive = 0; spread = 0
            stats file using (column("panel") == p && column("series") == s ? (n = n + 1, role = strcol("role"), \
                series = strcol("label"), positive = positive + (column("error") > 0), \
                spread = spread + (column("high") > 1.001 * column("low"))) : 0) nooutput
            if (n > 0) {
                tint = role eq "ours" ? (ours == 0 ? blue : sky) : role eq "exact" ? black : role eq "reuse" ? grey : colour_of(baseline)
                shape = role eq "ours" ? 7 : role eq "exact" ? 10 : role eq "reuse" ? 4 : word("8 5 9 6 13 11", 1 + baseline % 6) + 0
                baseline = baseline + (role eq "baseline"); ours = ours + (role eq "ours")
                mark = text ? sprintf("pt '%s'", role eq "exact" ? "E" : role eq "reuse" ? "R" : role eq "ours" ? word("O A B C D H", 1 + (ours - 1) % 6) : sprintf("%d", baseline)) \
                            : sprintf("pt %d ps %g lc rgb %d", shape, role eq "ours" ? 1.2 : 1, tint)
                pick = sprintf("column('panel') == %d && column('series') == %d", p, s)
                command = command.(strlen(command) ? ", " : "plot ")
                if (positive == 0) {
                    command = command.sprintf("file using (%s ? 100 * column('macs') : NaN):(floor_at) with points %s title '%s: error 0'", \
                                              pick, mark, series)
                } else {
                    y = sprintf("(%s ? 100 * column('macs') : NaN):(column('error') > 0 ? column('error') : floor_at)", pick)
                    style = text || n < 2 ? "points" : "linespoints"
                    if (!text && spread > 0) { command = command.sprintf(\
                        "file using (%s ? 100 * column('macs') : NaN):(max2(column('low'), floor_at)):(0):".\
                        "(column('high') - max2(column('low'), floor_at)) with vectors nohead lw 1.6 lc rgb %d notitle, ", pick, tint) }
                    command = command.sprintf("file using %s with %s %s %s title '%s'", y, style, mark, \
                                              text ? "" : role eq "ours" ? "lw 2.4" : "lw 1.2", series)
                }
            }
        }
        if (strlen(command)) { eval command } else { eval say_nothing }
    }
    unset multiplot
}
