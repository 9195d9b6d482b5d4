# Error spectra of all sites: what a correction of each rank leaves of a site's delta, a panel for each kind of site, a line
# for each block, with the kept ranks as dots. Reads spectra.tsv.
if (!exists("ousac_common")) load "plots/common.gp"
file = tables."spectra.tsv"

rows = 0; panels = 0; blocks = 0; low = 1e300; positive = 0
stats file using (rows = rows + 1, panels = max2(panels, column("column") + 1), blocks = max2(blocks, column("block") + 1)) nooutput
stats file using (column("share_left") > 0 ? (positive = positive + 1, low = min2(low, column("share_left"))) : 0) nooutput
across = panels < 3 ? panels : 3
down = panels > 0 ? (panels + across - 1) / across : 1
eval start(860, positive > 0 ? 70 + 240 * down : 300, positive > 0 ? 20 * down : 20)
if (positive == 0) {
    set xlabel "rank (directions)"; set ylabel "share left (no unit)"
    eval say_nothing
} else {
    set logscale y
    set format y "%g"
    set yrange [max2(low, 1e-3) / 1.5:1.3]
    set xlabel "rank (directions)"
    set cbrange [0:max2(1, blocks - 1)]
    set cblabel "block (index)"
    set cbtics tic_step(blocks, 8)
    # Lines must be seen on light and on dark paper.
    set palette defined (0 "#4f6bed", 1 "#c2449a", 2 "#e8872b")
    unset key
    unset colorbox
    set multiplot layout down, across margins screen 0.12, 0.88, (down > 1 ? 0.12 : 0.22), 0.94 \
        spacing screen 0.07, (down > 1 ? 0.17 : 0)
    do for [c = 0:panels - 1] {
        kind = ""; dense = 0; last = 1; kept = 0; here_positive = 0
        stats file using (column("column") == c ? (kind = strcol("kind"), dense = column("dense_rank"), \
            last = max2(last, column("rank")), kept = kept + (column("kept") == 1 && column("share_left") > 0)) : 0) nooutput
        stats file using (column("column") == c && column("share_left") > 0 ? (here_positive = here_positive + 1) : 0) nooutput
        set title kind offset 0, -0.7
        if (!text && blocks > 1 && c == panels - 1) { set colorbox user origin screen 0.9, 0.25 size screen 0.02, 0.5 }
        set xtics tic_step(last, 5)
        set xrange [0:last]
        if (c % across == 0) { set ylabel "share left (no unit)" } else { set ylabel " " }
        # Rank 0 is always 1; leaving it out of the lines keeps the sites apart.
        line(x) = column("column") == c && column("rank") > 0 && column("share_left") > 0 ? column("share_left") : NaN
        dot(x) = column("column") == c && column("kept") == 1 && column("share_left") > 0 ? column("share_left") : NaN
        set arrow 1 from first dense, graph 0 to first dense, graph 1 nohead lc rgb grey dt (6, 4)
        if (here_positive == 0) {
            set label 98 "no data: every spectrum is zero" at graph 0.5, 0.5 center
            plot [0:1] NaN notitle
            unset label 98
        } else {
            command = text ? "plot file using 'rank':(line(0)) with dots notitle" : \
                "plot file using 'rank':(line(0)):'block' with lines lw 1.2 lc palette notitle"
            if (kept > 0) { command = command.(text ? ", file using 'rank':(dot(0)) with points pt 'o' notitle" : \
                ", file using 'rank':(dot(0)):'block' with points pt 7 ps 0.7 lc palette notitle") }
            eval command
        }
    }
    unset multiplot
}
